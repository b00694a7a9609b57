package relayclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// flushTime is how long Run goes on writing what was queued when its context
// ends, so that the last packets of a node that stops still leave.
const flushTime = 250 * time.Millisecond

// What ends a connection beside an error of the network.
var (
	// ErrDead is returned by Run when the relay answered no ping.
	ErrDead = errors.New("relay does not answer")
	// ErrUnexpected is returned by Run for a frame that only clients send.
	ErrUnexpected = errors.New("unexpected relay frame")
)

// Handler is told what arrives. Its methods are called by the goroutine that
// reads, one at a time; a slow one holds up the connection.
type Handler interface {
	// RelayPacket hands over the payload of one packet: a batch, see
	// relay.NextDatagram. It is valid until the method returns. The source is
	// as the relay says, and not even checked to be a point.
	RelayPacket(src identity.NodeID, payload []byte)
	// RelayGone says that a node has left the relay.
	RelayGone(id identity.NodeID)
	// RelayHealth hands over a text of the relay, cleaned.
	RelayHealth(text string)
}

// Client is a connection to a relay.
type Client struct {
	raw    *relay.Conn // the socket
	conn   transport
	iroh1  bool
	queue  *relay.Queue
	logger *slog.Logger

	begin    time.Time
	received atomic.Int64  // since begin, of the last read
	rtt      atomic.Int64  // nanoseconds, 0 unknown
	frames   atomic.Uint64 // received
	poke     chan struct{} // holds one token when a ping is wanted
	ponged   chan struct{} // holds one token when a ping was answered
	pace     relay.Pace    // the writer's

	mu       sync.Mutex // guards the fields below
	pingData [8]byte
	pingSent time.Time // zero: none on its way
}

// newClient prepares a Client whose transport is still to come.
func newClient(cfg Config, raw *relay.Conn) *Client {
	c := &Client{
		raw:    raw,
		queue:  cfg.Queue,
		logger: cfg.Logger,
		begin:  time.Now(),
		poke:   make(chan struct{}, 1),
		ponged: make(chan struct{}, 1),
	}
	if c.queue == nil {
		c.queue = relay.NewQueue(nil)
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Iroh1 reports whether the relay speaks the protocol of iroh 1.x.
func (c *Client) Iroh1() bool { return c.iroh1 }

// Send queues datagrams for a node: pkts holds them one behind the other, each
// seg bytes long, the last one shorter. They are copied. It never blocks and
// reports false when some were dropped.
func (c *Client) Send(dst identity.NodeID, pkts []byte, seg int) bool {
	return c.queue.PushDatagrams(dst, pkts, seg)
}

// NotePreferred tells the relay whether it is this node's home.
func (c *Client) NotePreferred(home bool) {
	c.queue.PushControl(relay.AppendNotePreferred(nil, home))
}

// Ping asks the relay for a sign of life now; without one Run ends in 4 s.
func (c *Client) Ping() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// RTT returns the time of the last ping to its pong, or zero before the first.
func (c *Client) RTT() time.Duration { return time.Duration(c.rtt.Load()) }

// Heard returns when the relay last sent something, zero for never.
func (c *Client) Heard() time.Time { return c.lastReceived() }

// Established reports whether the relay has sent anything yet: only then is it
// certain that it took the login.
func (c *Client) Established() bool { return c.frames.Load() > 0 }

// LocalAddr returns this host's address of the connection.
func (c *Client) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// Close ends the connection at once, and with it Run.
func (c *Client) Close() error { return c.raw.Close() }

// Run reads and writes until the connection ends, and closes it. When ctx is
// done it writes what waits, for a quarter of a second at most. It is called
// once; the error says why the connection ended and is never nil.
func (c *Client) Run(ctx context.Context, h Handler) error {
	var wg sync.WaitGroup
	finished := make(chan struct{})
	readError := make(chan error, 1)
	wg.Go(func() { c.closeLate(ctx, finished) })
	wg.Go(func() { readError <- c.readLoop(h) })
	err := c.writeLoop(ctx, readError)
	close(finished)
	_ = c.raw.Close()
	wg.Wait()
	return err
}

// closeLate frees a write that hangs when the context ends.
func (c *Client) closeLate(ctx context.Context, finished <-chan struct{}) {
	select {
	case <-finished:
		return
	case <-ctx.Done():
	}
	timer := time.NewTimer(flushTime)
	defer timer.Stop()
	select {
	case <-finished:
	case <-timer.C:
		_ = c.raw.Close()
	}
}

// unheard is how long nothing may come after payload has left before the relay is
// asked for a sign of life; control is the size of the largest frame that is no
// payload.
const (
	unheard = 750 * time.Millisecond
	control = 64
)

// writeLoop writes the queue and keeps the connection alive. While payload leaves
// a relay that has died shows within 5 s, else by a ping.
func (c *Client) writeLoop(ctx context.Context, readError <-chan error) error {
	var live relay.Liveness
	var sent, payload time.Time // payload: the first since something came
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now, received := time.Now(), c.lastReceived()
		switch {
		case payload.IsZero():
		case !received.Before(payload):
			payload = time.Time{}
		case now.Sub(payload) >= unheard:
			live.PingNow()
			payload = now
		}
		action, next := live.Next(now, received, sent)
		switch action {
		case relay.LivePing:
			c.pushPing()
		case relay.LiveDead:
			return ErrDead
		}
		if n, err := c.writeSome(); err != nil {
			return endOf(readError, err)
		} else if n > 0 {
			sent = time.Now()
			if n > control && payload.IsZero() {
				payload = sent
			}
			continue
		}
		if at := payload.Add(unheard); !payload.IsZero() && at.Before(next) {
			next = at
		}
		timer.Reset(time.Until(next))
		select {
		case <-c.queue.Ready():
		case <-timer.C:
		case <-c.poke:
			live.PingNow()
		case <-c.ponged: // no need to wake for an answer that came
		case err := <-readError:
			return err
		case <-ctx.Done():
			c.flush()
			return ctx.Err()
		}
	}
}

// endOf prefers the reader's error, which says more than that of a write to a
// connection the relay has closed.
func endOf(readError <-chan error, err error) error {
	select {
	case first := <-readError:
		return first
	default:
		return fmt.Errorf("relay write: %w", err)
	}
}

// writeSome writes what one Write should have and returns its size, 0 when nothing
// waited.
func (c *Client) writeSome() (int, error) {
	b := c.queue.Take()
	if b == nil {
		return 0, nil
	}
	n, begin := len(b), time.Now()
	err := c.conn.Write(b)
	c.queue.Done()
	if c.pace.Wrote(n, time.Since(begin)) {
		c.queue.SetBlock(c.pace.Limit())
		c.raw.LimitUnsent(c.pace.Limit())
	}
	return n, err
}

// flush writes all that waits and says goodbye.
func (c *Client) flush() {
	for {
		if n, err := c.writeSome(); n == 0 || err != nil {
			break
		}
	}
	c.conn.Close()
}

func (c *Client) pushPing() {
	var data [8]byte
	_, _ = rand.Read(data[:])
	c.mu.Lock()
	c.pingData, c.pingSent = data, time.Now()
	c.mu.Unlock()
	c.queue.PushControl(relay.AppendPing(nil, data))
}

func (c *Client) readLoop(h Handler) error {
	for {
		t, body, err := c.conn.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("relay closed the connection: %w", err)
			}
			return fmt.Errorf("relay read: %w", err)
		}
		c.frames.Add(1)
		if err := c.dispatch(h, t, body); err != nil {
			return err
		}
	}
}

func (c *Client) dispatch(h Handler, t relay.Type, body []byte) error {
	switch t {
	case relay.TypeRecvPacket:
		src, payload, err := relay.ParsePacket(body)
		if err != nil {
			return err
		}
		h.RelayPacket(src, payload)
	case relay.TypePing:
		data, err := relay.ParsePing(body)
		if err != nil {
			return err
		}
		c.queue.PushControl(relay.AppendPong(nil, data))
	case relay.TypePong:
		return c.gotPong(body)
	case relay.TypePeerGone:
		id, err := relay.ParsePeerGone(body)
		if err != nil {
			return err
		}
		h.RelayGone(id)
	case relay.TypeHealth:
		h.RelayHealth(identity.Clean(string(body), 200))
	case relay.TypeRestarting:
		after, tryFor, err := relay.ParseRestarting(body)
		if err != nil {
			return err
		}
		return &RestartError{After: after, TryFor: tryFor}
	case relay.TypeKeepAlive:
	default:
		return fmt.Errorf("%w: %v", ErrUnexpected, t)
	}
	return nil
}

// RestartError ends a connection whose relay restarts. It asks to come back after a
// while, and to try for some time.
type RestartError struct{ After, TryFor time.Duration }

// Error says so.
func (e *RestartError) Error() string { return "the relay restarts" }

// gotPong measures the round trip. A pong that nobody asked for is ignored.
func (c *Client) gotPong(body []byte) error {
	data, err := relay.ParsePing(body)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if data == c.pingData && !c.pingSent.IsZero() {
		c.rtt.Store(int64(max(1, time.Since(c.pingSent))))
		c.pingSent = time.Time{}
		select {
		case c.ponged <- struct{}{}:
		default:
		}
	}
	return nil
}

func (c *Client) lastReceived() time.Time {
	if at := c.received.Load(); at > 0 {
		return c.begin.Add(time.Duration(at))
	}
	return time.Time{}
}

// stamp notes that something was read.
func (c *Client) stamp() { c.received.Store(int64(max(1, time.Since(c.begin)))) }
