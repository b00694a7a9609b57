package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/wire"
)

// ErrUnknownPeer is returned for a NodeID that is none of the peers.
var ErrUnknownPeer = errors.New("no such peer")

// PingResult is one round trip through the tunnel.
type PingResult struct {
	RTT time.Duration
	// Path is direct, relay, mixed or none; Endpoint the address or relay URL.
	Path, Endpoint string
}

// Ping sends one ping through the tunnel, connecting first if need be, and
// waits for the answer until ctx ends.
func (e *Engine) Ping(ctx context.Context, id identity.NodeID) (PingResult, error) {
	p := e.peer(id)
	if p == nil {
		return PingResult{}, ErrUnknownPeer
	}
	for try := 0; ; try++ {
		s, err := p.connect(ctx)
		if err != nil {
			return PingResult{}, p.explain(err)
		}
		began := time.Now()
		err = s.pingOnce(ctx, 0)
		if err == nil {
			result := PingResult{RTT: time.Since(began)}
			result.Path, result.Endpoint = e.path(id)
			return result, nil
		}
		if try > 0 || !s.replaceable() {
			return PingResult{}, err
		}
	}
}

// explain adds to the error of a dial what status would say.
func (p *peer) explain(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lastErr == "" || errors.Is(err, errDenied) {
		return err
	}
	return errors.New(p.lastErr)
}

// pings are the tunnel pings of one session that wait for their pong; the zero
// value is ready for use.
type pings struct {
	mu   sync.Mutex
	open map[uint64]chan struct{}
}

// begin makes a nonce and the channel that its pong closes.
func (p *pings) begin() (uint64, chan struct{}) {
	var b [8]byte
	rand.Read(b[:])
	nonce, done := binary.BigEndian.Uint64(b[:]), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = make(map[uint64]chan struct{})
	}
	p.open[nonce] = done
	return nonce, done
}

// end forgets a ping.
func (p *pings) end(nonce uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, nonce)
}

// answered takes a pong; those that answer nothing are ignored.
func (p *pings) answered(frame []byte) {
	_, nonce, _, err := wire.ParsePing(frame)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if done, ok := p.open[nonce]; ok {
		close(done)
		delete(p.open, nonce)
	}
}

// pingOnce sends one ping and waits for its pong, for timeout if that is not
// zero.
func (s *session) pingOnce(ctx context.Context, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	nonce, done := s.pings.begin()
	defer s.pings.end(nonce)
	frame := frames.Get().(*[]byte)
	*frame = wire.AppendPing((*frame)[:0], wire.KindPing, nonce, uint64(time.Now().UnixNano()))
	s.queue(frame)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", ctx.Err())
	case <-s.conn.Context().Done():
		return errors.New("the connection ended")
	}
}

// answerPing sends a ping back as a pong.
func (s *session) answerPing(ping []byte) {
	_, nonce, clock, err := wire.ParsePing(ping)
	if err != nil {
		s.peer.engine.count.drop(dropDecode)
		return
	}
	frame := frames.Get().(*[]byte)
	*frame = wire.AppendPing((*frame)[:0], wire.KindPong, nonce, clock)
	s.queue(frame)
}
