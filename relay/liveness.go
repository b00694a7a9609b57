package relay

import (
	"math/rand/v2"
	"time"
)

// Times of a connection's liveness. An idle connection of ours costs a ping, a
// pong and an acknowledgement every 25 s; iroh 0.35 pings after 15 s.
const (
	// PingInterval is how long nothing may arrive before a ping is sent.
	PingInterval = 25 * time.Second
	// PongTimeout is how long a ping of a server may stay unanswered,
	// ClientPongTimeout one of a client, which has another relay to go to.
	PongTimeout       = 5 * time.Second
	ClientPongTimeout = 4 * time.Second
	// KeepAliveInterval is how long a server may send nothing: iroh-net 0.28
	// clients give up after 120 s of silence, whatever they send themselves.
	KeepAliveInterval = 60 * time.Second
)

// LivenessAction is what Liveness asks for.
type LivenessAction uint8

// The actions.
const (
	LiveNothing LivenessAction = iota
	LivePing
	LiveKeepAlive
	LiveDead
)

// Liveness decides when a connection is pinged and when it is dead. It has no
// clock: the time goes in. The zero value is that of a client; it pings at
// once.
type Liveness struct {
	// Server adds 1 to 5 s to each ping interval and asks for keep-alives.
	Server bool

	start    time.Time // of the connection
	pinged   time.Time // when the outstanding ping was sent; zero: none
	interval time.Duration
}

// Next returns what to do now and, if that is LiveNothing, when to ask again
// at the latest. received and sent are when something last arrived and left;
// zero means never.
func (l *Liveness) Next(now, received, sent time.Time) (LivenessAction, time.Time) {
	if l.start.IsZero() {
		l.start = now
		if !l.Server {
			return l.ping(now)
		}
		l.interval = l.newInterval()
	}
	if !l.pinged.IsZero() {
		if received.Before(l.pinged) {
			if dead := l.pinged.Add(l.timeout()); now.Before(dead) {
				return LiveNothing, dead
			}
			return LiveDead, now
		}
		l.pinged = time.Time{}
	}
	next := later(l.start, received).Add(l.interval)
	if !now.Before(next) {
		return l.ping(now)
	}
	if l.Server {
		quiet := later(l.start, sent).Add(KeepAliveInterval)
		if !now.Before(quiet) {
			return LiveKeepAlive, now
		}
		next = earlier(next, quiet)
	}
	return LiveNothing, next
}

// PingNow makes the next call of Next ask for a ping, unless one is on its way.
func (l *Liveness) PingNow() {
	if l.pinged.IsZero() {
		l.interval = -time.Hour
	}
}

func (l *Liveness) ping(now time.Time) (LivenessAction, time.Time) {
	l.pinged, l.interval = now, l.newInterval()
	return LivePing, now
}

func (l *Liveness) timeout() time.Duration {
	if l.Server {
		return PongTimeout
	}
	return ClientPongTimeout
}

func (l *Liveness) newInterval() time.Duration {
	if !l.Server {
		return PingInterval
	}
	return PingInterval + time.Second + rand.N(4*time.Second)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
