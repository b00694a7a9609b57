package relayserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// refusalsGap is how often the log says what was refused.
const refusalsGap = time.Minute

// tellRefusals logs, once a minute and with no address, what was refused or could not
// be accepted since: who runs a relay sees why machines do not get in.
func (s *Server) tellRefusals(ctx context.Context) {
	tick := time.NewTicker(refusalsGap)
	defer tick.Stop()
	for last := s.count.refusals(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := s.count.refusals()
		var said []any
		for i, r := range now {
			if n := r.n - last[i].n; n > 0 {
				said = append(said, slog.Uint64(r.what, n))
			}
		}
		if failed := s.acceptErr.Load(); failed != nil && now[0].n > last[0].n {
			said = append(said, slog.String("err", (*failed).Error()))
		}
		if len(said) > 0 {
			s.logger.Info("refused in the last minute", said...)
		}
		last = now
	}
}

// refusal is a count of one kind.
type refusal struct {
	what string
	n    uint64
}

// refusals are all kinds, accepts that failed in front.
func (c *counters) refusals() []refusal {
	return []refusal{
		{"accept_failed", c.acceptsFailed.Load()},
		{"too_many_connections", c.connsLimited.Load()},
		{"too_many_logins", c.loginsLimited.Load()},
		{"not_allowed", c.loginsDenied.Load()},
		{"bad_login", c.loginFailures.Load()},
		{"no_challenge", c.loginsReplayable.Load()},
		{"connected_elsewhere", c.replacedRefused.Load()},
	}
}

// acceptFailed is called when a connection could not be accepted.
func (s *Server) acceptFailed(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	s.count.acceptsFailed.Add(1)
	s.acceptErr.Store(&err)
}
