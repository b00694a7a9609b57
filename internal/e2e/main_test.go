//go:build linux

package e2e

import (
	"os"
	"testing"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(hosttest.Main(m)) }

// joinHosts puts a cable between two hosts that are peers of each other, with
// every rule.
//
//	alice 10.0.0.1 ── veth ── 10.0.0.2 bob
func joinHosts(t *testing.T, a, b *hosttest.Host) {
	t.Helper()
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
}

// pair is two joined hosts, up with the given flags.
func pair(t *testing.T, upFlags ...string) (a, b *hosttest.Host) {
	t.Helper()
	a, b = hosttest.New(t, "a"), hosttest.New(t, "b")
	joinHosts(t, a, b)
	a.Start(t, upFlags...)
	b.Start(t, upFlags...)
	return a, b
}
