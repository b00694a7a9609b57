package netcheck

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
)

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.serve("192.0.2.1:3478", "198.51.100.7:1000", 50*ms)
		f.serve("192.0.2.2:3478", "198.51.100.7:1000", 20*ms)
		c := f.start()
		if _, ok := c.Ask(t.Context(), f.send); ok {
			t.Fatal("nobody is known yet")
		}
		f.report(t, false)
		a, ok := c.Ask(t.Context(), func(b []byte, to netip.AddrPort) error {
			if to != ap("192.0.2.2:3478") {
				t.Errorf("asked %v", to)
			}
			tx, _, _, _ := parseSTUN(b)
			time.AfterFunc(20*ms, func() { c.HandleSTUN(success(tx, ap("198.51.100.7:2222")), to) })
			return nil
		})
		if !ok || a != ap("198.51.100.7:2222") {
			t.Fatal(a, ok)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 600*ms)
		defer cancel()
		copies := 0
		if _, ok := c.Ask(ctx, func([]byte, netip.AddrPort) error { copies++; return nil }); ok || copies != 3 {
			t.Fatal(ok, copies)
		}
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.serve("192.0.2.1:3478", "198.51.100.7:1000", 20*ms)
		f.relay(t, "r.example", "192.0.2.2", "198.51.100.7:1000", 20*ms)
		var lines []string // one call at a time: the race detector would see another
		f.cfg.Progress = func(p Progress) { lines = append(lines, p.Text) }
		f.start()
		f.report(t, true)
		if text := strings.Join(lines, "\n"); !strings.Contains(text, "sees us as 198.51.100.7:1000 (20.0 ms)") || len(lines) != 4 {
			t.Fatal(text)
		}
	})
}

func TestReportAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.relay(t, "r.example", "192.0.2.2", "198.51.100.7:1000", 20*ms)
		f.start()
		r := f.report(t, true)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Report
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if back.GlobalV4 != r.GlobalV4 || back.Preferred != r.Preferred || back.Hairpin != False || back.MappingVariesV4 != Unknown {
			t.Fatalf("%s", b)
		}
		var empty Report
		if b, err = json.Marshal(&empty); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &empty); err != nil || empty.Preferred != (identity.RelayURL{}) {
			t.Fatal(err)
		}
	})
}
