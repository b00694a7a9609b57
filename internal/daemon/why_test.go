package daemon

import (
	"strings"
	"testing"

	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

func TestExplain(t *testing.T) {
	nat := func(kind string) *localapi.Side { return &localapi.Side{NAT: kind, UDP: kind != "blocked"} }
	narrow := nodemap.RemoteInfo{Addrs: []nodemap.AddrInfo{{Narrow: true}}}
	tests := []struct {
		name          string
		path          string
		self, their   *localapi.Side
		info          nodemap.RemoteInfo
		lastError     string
		cause, remedy string // parts of them; an empty remedy means none
	}{
		{name: "direct", path: "direct", cause: "answers directly at"},
		{name: "mixed", path: "mixed", cause: "in doubt", remedy: "wait"},
		{name: "own UDP blocked", path: "relay", self: nat("blocked"), their: nat("easy"), cause: "out of this network", remedy: "let UDP out"},
		{name: "their UDP blocked", path: "relay", self: nat("easy"), their: nat("blocked"), cause: "out of the network of bob", remedy: "let UDP out"},
		{name: "not told", path: "relay", self: nat("easy"), cause: "not told", remedy: "ask again"},
		{name: "small path", path: "relay", self: nat("easy"), their: nat("easy"), info: narrow, cause: "1200 bytes", remedy: "MTU"},
		{name: "both hard", path: "relay", self: nat("hard"), their: nat("hard"), cause: "NAT of each side", remedy: "PCP"},
		{name: "own hard", path: "relay", self: nat("hard"), their: nat("easy"), cause: "this node's NAT gives", remedy: "PCP"},
		{name: "their hard", path: "relay", self: nat("none"), their: nat("hard"), cause: "the NAT of bob gives", remedy: "PCP"},
		{name: "own unknown", path: "relay", self: nat("unknown"), their: nat("easy"), cause: "this node's NAT works is not known", remedy: "stun"},
		{name: "their unknown", path: "relay", self: nat("easy"), their: nat("unknown"), cause: "the NAT of bob works is not known", remedy: "stun"},
		{name: "firewall", path: "relay", self: nat("none"), their: nat("easy"), cause: "a firewall", remedy: "let UDP in"},
		{name: "no answer", path: "none", lastError: "no answer from it", cause: "no answer from it", remedy: "has added this one"},
		{name: "idle", path: "none", cause: "nothing has been sent", remedy: "nodetun ping bob"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := localapi.Why{Peer: "bob", Path: test.path, Endpoint: "192.0.2.1:5", Their: test.their}
			if test.self != nil {
				w.Self = *test.self
			}
			cause, remedy := explain(&w, &test.info, test.lastError)
			if !strings.Contains(cause, test.cause) || !strings.Contains(remedy, test.remedy) || (remedy == "") != (test.remedy == "") {
				t.Errorf("cause %q, remedy %q", cause, remedy)
			}
		})
	}
}
