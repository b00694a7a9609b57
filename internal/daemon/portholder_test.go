package daemon

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
)

func TestPortHolder(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("known on Linux only")
	}
	conn, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	port := uint16(conn.LocalAddr().(*net.UDPAddr).Port)
	if got := findHolder(port, -1); got.pid != os.Getpid() || got.name == "" {
		t.Errorf("the holder of port %d: %+v", port, got)
	}
	if got := portHolder(port); got != (holder{}) {
		t.Errorf("this process is not another: %+v", got)
	}
}

// The line is one of that server's own configuration.
func TestForwardAdvice(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.153:53820")
	for name, want := range map[string]string{
		"dnsmasq":     "server=/node.internal/127.0.0.153#53820",
		"AdGuardHome": "[/node.internal/]127.0.0.153:53820",
		"named":       `zone "node.internal" { type forward; forward only; forwarders { 127.0.0.153 port 53820; }; };`,
		"something":   "127.0.0.153, port 53820, for names in node.internal",
	} {
		if got := (holder{name: name, pid: 7}).advice("node.internal", at); !strings.Contains(got, want) || strings.Contains(got, "%!") {
			t.Errorf("%s: %s", name, got)
		}
	}
	for name := range forwards {
		if got := (holder{name: name}).advice("node.internal", at); strings.Contains(got, "%!") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
