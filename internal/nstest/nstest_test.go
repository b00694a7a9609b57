//go:build linux

package nstest_test

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nodetun/nodetun/internal/nstest"
)

// a 10.77.0.1 ── veth ── 10.77.0.2 b
func TestNetnsVeth(t *testing.T) {
	a, b := nstest.New(t, "a"), nstest.New(t, "b")
	nstest.Veth(t, a, "10.77.0.1/24", b, "10.77.0.2/24")
	a.Run(t, "ping", "-c1", "-W2", "10.77.0.2")
}

func TestNetnsDo(t *testing.T) {
	ns := nstest.New(t, "do")
	var inside net.Listener
	ns.Do(t, func() {
		var err error
		if inside, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	})
	defer inside.Close()
	_, port, _ := net.SplitHostPort(inside.Addr().String())
	if out := ns.Run(t, "ss", "-Hltn"); !strings.Contains(out, ":"+port) {
		t.Errorf("the listener is not in the namespace:\n%s", out)
	}
}

// Who outlives the program that the test started is ended with the namespace.
func TestNetnsClear(t *testing.T) {
	var pid int
	t.Run("inside", func(t *testing.T) {
		ns := nstest.New(t, "clear")
		out := ns.Run(t, "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
		var err error
		if pid, err = strconv.Atoi(strings.TrimSpace(out)); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, 0); err != nil {
			t.Fatal(err)
		}
	})
	// Nobody may have waited for it yet: then it is a zombie.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("still there: %s", stat)
	}
}

func TestNetnsNft(t *testing.T) {
	a, b := nstest.New(t, "a"), nstest.New(t, "b")
	nstest.Veth(t, a, "10.77.0.1/24", b, "10.77.0.2/24")
	b.Nft(t, "table inet f {\n chain in {\n type filter hook input priority 0;\n ip protocol icmp drop\n }\n}\n")
	if out, err := a.Try("ping", "-c1", "-W1", "10.77.0.2"); err == nil {
		t.Errorf("the filter let the ping pass:\n%s", out)
	}
}
