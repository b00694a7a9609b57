//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
)

// relayHost is a namespace with a bridge, its hosts' common network, and a
// relay at 10.0.0.254 on it.
type relayHost struct {
	*host
	url string
}

func startRelay(t *testing.T) *relayHost {
	t.Helper()
	r := &relayHost{host: newHost(t, "relay"), url: "http://10.0.0.254:3340/"}
	r.ns.Run(t, "ip", "link", "add", "br0", "type", "bridge")
	r.ns.Run(t, "ip", "addr", "add", "10.0.0.254/24", "dev", "br0")
	r.ns.Run(t, "ip", "link", "set", "br0", "up")
	r.spawn(t, binary, "relay", "--dev", "--addr", ":3340", "--stun-addr", ":3478")
	eventually(t, 5*time.Second, "the relay listens", func() error {
		if out := r.ns.Run(t, "ss", "-Hltn", "sport", "=", ":3340"); out == "" {
			return errors.New("no listener on port 3340")
		}
		return nil
	})
	return r
}

// plug joins a host to the bridge with the given address.
func (r *relayHost) plug(t *testing.T, h *host, cidr string) {
	t.Helper()
	_, port := nstest.Veth(t, h.ns, cidr, r.ns, "")
	r.ns.Run(t, "ip", "link", "set", port, "master", "br0")
	eventually(t, 5*time.Second, fmt.Sprintf("%s reaches the relay", h.ns.Name), func() error {
		out, err := h.ns.Try("ping", "-c1", "-W1", "10.0.0.254")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
}
