package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// repeatsGap is how long a line that comes again and again is only counted.
const repeatsGap = time.Minute

// repeats is a handler that writes a line which comes again at once no second time,
// but how often it came, with the next line or after repeatsGap.
type repeats struct {
	slog.Handler
	prefix string // of attributes and groups that every line has
	last   *lastLine
}

// lastLine is what all handlers of one log share.
type lastLine struct {
	mu    sync.Mutex // guards the fields below
	key   string
	at    time.Time // when it was written
	again int       // how often it came since
}

func newRepeats(h slog.Handler) *repeats { return &repeats{Handler: h, last: new(lastLine)} }

// Handle implements slog.Handler.
func (h *repeats) Handle(ctx context.Context, r slog.Record) error {
	var key strings.Builder
	fmt.Fprint(&key, h.prefix, r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprint(&key, "\x00", a)
		return true
	})
	l := h.last
	l.mu.Lock()
	defer l.mu.Unlock()
	if key.String() == l.key && r.Time.Sub(l.at) < repeatsGap {
		l.again++
		return nil
	}
	if l.again > 0 {
		told := slog.NewRecord(r.Time, r.Level, "the line before came again", 0)
		told.AddAttrs(slog.Int("times", l.again))
		if err := h.Handler.Handle(ctx, told); err != nil {
			return err
		}
	}
	l.key, l.at, l.again = key.String(), r.Time, 0
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *repeats) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &repeats{h.Handler.WithAttrs(attrs), h.prefix + fmt.Sprint(attrs) + "\x00", h.last}
}

// WithGroup implements slog.Handler.
func (h *repeats) WithGroup(name string) slog.Handler {
	return &repeats{h.Handler.WithGroup(name), h.prefix + name + "\x01", h.last}
}
