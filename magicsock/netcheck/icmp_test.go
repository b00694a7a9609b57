package netcheck

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestEcho(t *testing.T) {
	for _, to := range []string{"127.0.0.1", "::1"} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		d, err := echo(ctx, Config{}, netip.MustParseAddr(to))
		cancel()
		switch {
		case errors.Is(err, os.ErrPermission):
			t.Skip("raw sockets are for root")
		case to == "::1" && err != nil:
			t.Logf("no IPv6 here: %v", err)
		case err != nil || d <= 0:
			t.Fatal(d, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := echo(ended, Config{}, netip.MustParseAddr("127.0.0.1")); err == nil {
		t.Fatal("an answer after the end")
	}
}

func TestRelayIsPinged(t *testing.T) {
	if _, err := echo(t.Context(), Config{}, netip.MustParseAddr("127.0.0.1")); errors.Is(err, os.ErrPermission) {
		t.Skip("raw sockets are for root")
	}
	f := newFake()
	f.cfg.NoICMP = false
	url := f.relay(t, "r.example", "127.0.0.1", "198.51.100.7:1000", time.Millisecond)
	f.hairpin = true
	f.start()
	if r := f.report(t, true); r.relay(url).ICMP <= 0 || !r.ICMPv4.IsTrue() || r.ICMPv6 != Unknown {
		t.Fatalf("%+v", r)
	}
}
