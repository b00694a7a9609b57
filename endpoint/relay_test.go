package endpoint

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/discovery/discoveryserver"
	"github.com/nodetun/nodetun/discovery/discoveryserver/discoverytest"
	"github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

// withRelay returns the configuration of an endpoint with one relay.
func withRelay(url identity.RelayURL) Config {
	cfg := loopback()
	cfg.Socket.Relays = []identity.RelayURL{url}
	return cfg
}

// Two nodes that know each other's relay and nothing else. They are no peers,
// so the path stays the relay's (S11).
func TestRelay(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	a, b := start(t, withRelay(r.URL)), start(t, withRelay(r.URL))
	serveEcho(b)
	ctx := withTimeout(t)
	c, err := a.Connect(ctx, identity.NodeAddr{ID: b.NodeID(), Relay: r.URL}, testALPN)
	if err != nil {
		t.Fatal(err)
	}
	if err := echoOnce(ctx, c, randomBytes(1<<20)); err != nil {
		t.Error(err)
	}
	if err := c.SendDatagram([]byte("by relay")); err != nil {
		t.Fatal(err)
	}
	if got, err := c.ReceiveDatagram(ctx); err != nil || string(got) != "by relay" {
		t.Errorf("%s, %v", got, err)
	}
	if got := c.PathText(); !strings.HasPrefix(got, "relay(http") {
		t.Errorf("path %s", got)
	}
}

// The address of a relay is asked of the DNS servers that the configuration names.
func TestRelayByName(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	names := discoverytest.Start(t, discoveryserver.Config{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	url, err := identity.ParseRelayURL(strings.Replace(r.URL.String(), "127.0.0.1", discoverytest.Origin, 1))
	if err != nil {
		t.Fatal(err)
	}
	client := dns.Client{Servers: func() []netip.AddrPort { return []netip.AddrPort{names.DNS} }}
	byName := func() Config {
		cfg := withRelay(url)
		cfg.Socket.DNS = client.Resolver()
		return cfg
	}
	a, b := start(t, byName()), start(t, byName())
	serveEcho(b)
	ctx := withTimeout(t)
	c, err := a.Connect(ctx, identity.NodeAddr{ID: b.NodeID(), Relay: url}, testALPN)
	if err != nil {
		t.Fatal(err)
	}
	if err := echoOnce(ctx, c, []byte("x")); err != nil {
		t.Error(err)
	}
}

// The last packets of an endpoint go out by the relay too.
func TestCloseByRelay(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	a, b := start(t, withRelay(r.URL)), start(t, withRelay(r.URL))
	serveEcho(b)
	ctx := withTimeout(t)
	c, err := a.Connect(ctx, identity.NodeAddr{ID: b.NodeID(), Relay: r.URL}, testALPN)
	if err != nil {
		t.Fatal(err)
	}
	if err := echoOnce(ctx, c, []byte("x")); err != nil {
		t.Fatal(err)
	}
	b.Close(4, "shutting down")
	begin := time.Now()
	select {
	case <-c.Context().Done():
	case <-ctx.Done():
		t.Fatal("the close did not arrive")
	}
	if got, _ := Cause(c.CloseCause()); got.Code != 4 || time.Since(begin) > prompt {
		t.Errorf("%+v after %v", got, time.Since(begin))
	}
}
