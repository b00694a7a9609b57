package hostile

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/internal/hosttest"
)

// metricsAt is where a node that is measured has its metrics.
const metricsAt = "127.0.0.1:9091"

// busy puts the victim under the load that people put on it; see load.
var busy = flag.Bool("load", false, "iperf3 and an ssh session run beside the attacks")

// figure is the sum of a metric over its labels.
func figure(t *testing.T, h *hosttest.Host, name string) (sum float64) {
	t.Helper()
	for line := range strings.Lines(h.NS.Run(t, "curl", "-sS", "http://"+metricsAt+"/metrics")) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sum += value
	}
	return sum
}

// load keeps an iperf3 and an ssh session going between two hosts until the test ends, if that
// is asked for; then it tells how the session fared.
func load(t *testing.T, victim, other *hosttest.Host) {
	t.Helper()
	if !*busy {
		return
	}
	addr := other.Status(t).Peers[0].IPv6
	_, key := victim.Sshd(t)
	session := other.SSHSession(t, key, addr, echoPause)
	victim.IperfServer(t, "5201")
	other.Spawn(t, "iperf3", "-c", addr, "-t", "3600", "-i", "60")
	session.Forget()
	t.Cleanup(func() { session.StillRuns(t, longestGap) })
}
