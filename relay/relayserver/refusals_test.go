package relayserver

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What was refused, or could not be accepted, is one line a minute at level info.
func TestRefusalsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := &Server{logger: slog.New(slog.NewTextHandler(&out, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		go s.tellRefusals(ctx)
		minute := func() string {
			defer out.Reset()
			time.Sleep(refusalsGap)
			synctest.Wait()
			return out.String()
		}
		if got := minute(); got != "" {
			t.Errorf("nothing was refused: %q", got)
		}
		for range 500 {
			s.count.connsLimited.Add(1)
		}
		s.acceptFailed(errors.New("too many open files"))
		if got := minute(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=INFO") ||
			!strings.Contains(got, "too_many_connections=500 ") || !strings.Contains(got, "accept_failed=1") || !strings.Contains(got, "too many open files") {
			t.Errorf("%q", got)
		}
		if got := minute(); got != "" {
			t.Errorf("said again: %q", got)
		}
		s.count.loginsDenied.Add(2)
		if got := minute(); !strings.Contains(got, "not_allowed=2") || strings.Contains(got, "open files") {
			t.Errorf("%q", got)
		}
		cancel()
		synctest.Wait()
	})
}
