//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// relayHost is a namespace with a bridge, its hosts' common network, and a
// relay at 10.0.0.254 on it.
type relayHost struct {
	*hosttest.Host
	url     string
	process *hosttest.Process
}

// startRelay starts a relay with more arguments.
func startRelay(t *testing.T, args ...string) *relayHost {
	t.Helper()
	r := &relayHost{Host: hosttest.New(t, "relay"), url: "http://10.0.0.254:3340/"}
	r.NS.Run(t, "ip", "link", "add", "br0", "type", "bridge")
	r.NS.Run(t, "ip", "addr", "add", "10.0.0.254/24", "dev", "br0")
	r.NS.Run(t, "ip", "link", "set", "br0", "up")
	r.run(t, args...)
	return r
}

func (r *relayHost) run(t *testing.T, args ...string) {
	t.Helper()
	argv := append([]string{hosttest.Program(), "relay", "--dev", "--addr", ":3340", "--stun-addr", ":3478"}, args...)
	r.process = r.Spawn(t, argv...)
	r.AwaitListener(t, "3340")
}

// plug joins a host to the bridge with the given address.
func (r *relayHost) plug(t *testing.T, h *hosttest.Host, cidr string) {
	t.Helper()
	_, port := nstest.Veth(t, h.NS, cidr, r.NS, "")
	r.NS.Run(t, "ip", "link", "set", port, "master", "br0")
	hosttest.Eventually(t, 5*time.Second, fmt.Sprintf("%s reaches the relay", h.NS.Name), func() error {
		out, err := h.NS.Try("ping", "-c1", "-W1", "10.0.0.254")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
}
