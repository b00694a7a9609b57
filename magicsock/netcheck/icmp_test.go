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
