package pkarr

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// When a packet is published.
const (
	// Republish is when one that says the same is published anew, as iroh-net does.
	Republish = 5 * time.Minute
	// burst packets may follow each other at once, then one every refill: the limit of
	// number 0's servers.
	burst  = 2
	refill = 4 * time.Second
	// A failed attempt is repeated after retryMin, and after twice as long each time, at
	// most retryMax.
	retryMin = time.Second
	retryMax = time.Minute
)

// Publisher keeps what a node says of itself on one server. Make it with NewPublisher;
// it works while Run runs.
type Publisher struct {
	server Server
	every  time.Duration
	signer *Signer
	log    *slog.Logger
	kick   chan struct{} // holds one

	mu     sync.Mutex         // guards the fields below
	addr   *identity.NodeAddr // nil: nothing to say yet
	status Status
}

// Status is how publishing goes.
type Status struct {
	// Last is when the server took a packet last, zero for never.
	Last time.Time
	// Err is what the last attempt failed of, nil if it did not.
	Err error
}

var _ discovery.Publisher = (*Publisher)(nil)

// NewPublisher makes a publisher, which puts a packet anew every so often even if it says
// the same. The logger may be nil.
func NewPublisher(server Server, every time.Duration, signer *Signer, log *slog.Logger) *Publisher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Publisher{server: server, every: every, signer: signer, log: log, kick: make(chan struct{}, 1)}
}

// Publish implements discovery.Publisher. An address that holds nothing takes back what
// was said before.
func (p *Publisher) Publish(addr identity.NodeAddr) {
	p.mu.Lock()
	p.addr = &addr
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Server names where the packets go.
func (p *Publisher) Server() string { return p.server.String() }

// Status returns how publishing goes.
func (p *Publisher) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	var (
		pace     pace
		retry    time.Duration // after the last failure; 0: it did not fail
		verified bool          // nobody has a newer packet of ours
		due      <-chan time.Time
	)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.kick:
		case <-due:
		}
		if wait := pace.take(time.Now()); wait > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		select {
		case <-p.kick: // said by what follows
		default:
		}
		next := p.every
		switch err := p.publish(ctx, &verified); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			first := retry == 0
			retry = min(max(2*retry, retryMin), retryMax)
			next = retry
			var busy *BusyError
			if errors.As(err, &busy) {
				next = max(next, busy.Pause)
			}
			p.note(err)
			if first {
				p.log.Warn("publishing failed, it is tried again", "server", p.server.String(), "err", err)
			}
		default:
			if retry > 0 {
				p.log.Info("publishing works again", "server", p.server.String())
			}
			retry = 0
			p.note(nil)
		}
		due = time.After(next)
	}
}

func (p *Publisher) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Err = err
	if err == nil {
		p.status.Last = time.Now()
	}
}

// publish sends one packet. After the first of a run, and when the server says that it
// has a newer one, it looks which one the server has: a clock that was ahead, or a state
// directory from a backup, would leave this node unheard for ever.
func (p *Publisher) publish(ctx context.Context, verified *bool) error {
	p.mu.Lock()
	addr := *p.addr
	p.mu.Unlock()
	for tries := 0; ; tries++ {
		packet, err := p.signer.Sign(time.Now(), addr)
		if err != nil {
			return err
		}
		err = p.server.Put(ctx, packet)
		if err != nil && !errors.Is(err, ErrOld) || err == nil && *verified {
			return err
		}
		have, getErr := p.server.Get(ctx, addr.ID)
		switch {
		case getErr != nil && err == nil:
			return nil // looked for again next time
		case getErr != nil:
			return errors.Join(err, getErr)
		case !have.NewerThan(packet):
			*verified = err == nil
			return err
		case tries == maxRaises:
			return ErrOld
		}
		p.log.Info("the server has a newer record of this node: another run, or a clock that was ahead", "server", p.server.String(), "of", have.Time())
		p.signer.Raise(have.Timestamp())
	}
}

// maxRaises is how often a timestamp is raised for one attempt: another machine may
// publish with the same key.
const maxRaises = 2

// pace spaces packets: a bucket of burst tokens, one more every refill.
type pace struct {
	full time.Time // when the bucket is full again
}

// take takes a token and returns how long to wait before it may be used.
func (p *pace) take(now time.Time) time.Duration {
	p.full = later(p.full, now).Add(refill)
	return p.full.Add(-burst * refill).Sub(now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
