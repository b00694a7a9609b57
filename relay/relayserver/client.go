package relayserver

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/ratelimit"
	"github.com/nodetun/nodetun/relay"
)

const (
	// maxSentTo bounds to how many nodes a client's leaving is told.
	maxSentTo = 4096
	// lingerTime is how long a connection that we end may take to read what
	// was written last.
	lingerTime = time.Second
	// receiveBurst is how many bytes a client may send at once if nothing else was
	// said.
	receiveBurst = 1 << 20
)

var (
	errUnanswered = errors.New("ping not answered")
	errStopped    = errors.New("connection ended by this side")
)

// client is one logged-in connection.
type client struct {
	server *Server
	id     identity.NodeID
	addr   netip.Addr
	fresh  bool        // it answered a challenge
	raw    *relay.Conn // the socket; nil when it is not known
	conn   transport
	queue  *relay.Queue
	live   atomic.Bool // registered: it takes part in forwarding
	// entered says that it was registered at some time. It is written before
	// serve waits for all others, and read after.
	entered bool

	speed relay.Pace // the writer's

	// stop ends the connection after what is queued, and in a second at most.
	stop     func()
	stopping <-chan struct{}

	// The reader's own.
	sentTo  map[identity.NodeID]struct{}
	lastDst identity.NodeID
	budget  ratelimit.Bucket
	held    bool // it was held back at some time

	mu    sync.Mutex // guards the field below
	probe *probe
}

// probe is a ping that decides whether a client is alive (S2). Those who ask at
// the same time share one.
type probe struct {
	data [8]byte
	done chan struct{} // closed by the pong
}

func newClient(s *Server, id identity.NodeID, v visitor, conn transport, fresh bool) *client {
	stopping := make(chan struct{})
	return &client{
		server: s,
		id:     id,
		addr:   v.addr,
		raw:    v.raw,
		fresh:  fresh,
		conn:   conn,
		queue:  relay.NewQueue(&s.pool),
		stop: sync.OnceFunc(func() {
			close(stopping)
			time.AfterFunc(lingerTime, conn.Close)
		}),
		stopping: stopping,
		sentTo:   make(map[identity.NodeID]struct{}),
	}
}

// serve runs the connection until it ends.
func (c *client) serve() {
	s := c.server
	ctx, cancel := context.WithCancel(context.Background())
	stopOnShutdown := context.AfterFunc(s.shutdown, c.stop)
	var wg sync.WaitGroup
	readDone := make(chan struct{})
	if holder := c.register(); holder != nil {
		wg.Go(func() { c.contest(ctx, holder) })
	}
	wg.Go(func() { c.writeLoop(readDone) })

	c.conn.Pace(c.pace)
	err := c.readLoop()
	close(readDone)
	c.stop()
	cancel()
	stopOnShutdown()
	wg.Wait()
	c.leave()
	s.logger.Debug("relay client left", "node", c.id, "error", err)
}

// register takes the place of the node. One who answered a challenge takes it from
// whoever has it: that connection may be one that a NAT on the way forgot, or that of
// another machine with the same key. It stays, as iroh 1.x has it, and gets the
// place back when this one ends; so two machines do not throw each other out. For
// any other login the holder is returned.
func (c *client) register() (holder *client) {
	if !c.fresh {
		now, ok := c.server.registry.swap(nil, c)
		if !ok {
			return now
		}
		c.enter(nil)
		return nil
	}
	spare, excess := c.server.registry.push(c)
	c.enter(nil)
	if spare != nil {
		spare.queue.PushControl(relay.AppendHealth(nil, relay.HealthElsewhere))
		c.server.logger.Info("two connections with one key", "node", c.id)
	}
	if excess != nil {
		excess.stop()
	}
	return nil
}

// contest asks for the place of a client with the same key. A login of version
// 3 can be replayed by whoever has seen it, so it replaces another connection
// only if that one does not answer a ping (S2). Meanwhile the newcomer's pings
// are answered and its packets dropped.
func (c *client) contest(ctx context.Context, old *client) {
	s := c.server
	for !old.alive(ctx) {
		if ctx.Err() != nil {
			return
		}
		now, ok := s.registry.swap(old, c)
		if ok {
			c.enter(old)
			return
		}
		old = now
	}
	s.count.replacedRefused.Add(1)
	s.logger.Debug("relay client refused: its node is connected", "node", c.id)
	c.queue.PushControl(relay.AppendHealth(nil, "this key is connected already"))
	c.stop()
}

// enter takes part in forwarding, in the place of old if there is one.
func (c *client) enter(old *client) {
	c.entered = true
	c.live.Store(true)
	if old != nil {
		old.live.Store(false)
		old.stop()
	}
	c.server.count.accepts.Add(1)
	c.server.logger.Debug("relay client entered", "node", c.id, "addr", c.addr)
}

// leave tells those it had sent to, unless a newer connection has taken over.
func (c *client) leave() {
	s := c.server
	c.live.Store(false)
	promoted, gone := s.registry.remove(c)
	if promoted != nil {
		promoted.queue.PushControl(relay.AppendHealth(nil, relay.HealthBack))
	}
	if gone {
		notice := relay.AppendPeerGone(nil, c.id)
		for id := range c.sentTo {
			if other := s.registry.get(id); other != nil {
				other.queue.PushControl(notice)
			}
		}
	}
	if c.entered {
		s.count.disconnects.Add(1)
	}
	c.queue.Clear()
}

// alive pings the client and waits for the pong.
func (c *client) alive(ctx context.Context) bool {
	p := c.startProbe()
	timer := time.NewTimer(relay.PongTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-c.stopping:
	case <-timer.C:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probe == p {
		c.probe = nil
	}
	return false
}

func (c *client) startProbe() *probe {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probe == nil {
		c.probe = &probe{data: randomData(), done: make(chan struct{})}
		c.queue.PushControl(relay.AppendPing(nil, c.probe.data))
	}
	return c.probe
}

func (c *client) gotPong(data [8]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probe != nil && c.probe.data == data {
		close(c.probe.done)
		c.probe = nil
	}
}

// readLoop takes what the client sends.
func (c *client) readLoop() error {
	for {
		t, body, err := c.conn.Next()
		if err != nil {
			return err
		}
		if err := c.dispatch(t, body); err != nil {
			return err
		}
	}
}

func (c *client) dispatch(t relay.Type, body []byte) error {
	s := c.server
	switch t {
	case relay.TypeSendPacket:
		dst, payload, err := relay.ParsePacket(body)
		if err != nil {
			return err
		}
		c.forward(dst, payload)
	case relay.TypePing:
		data, err := relay.ParsePing(body)
		if err != nil {
			return err
		}
		s.count.pings.Add(1)
		c.queue.PushControl(relay.AppendPong(nil, data))
	case relay.TypePong:
		data, err := relay.ParsePing(body)
		if err != nil {
			return err
		}
		s.count.pongs.Add(1)
		c.gotPong(data)
	case relay.TypeNotePreferred:
		// It has no effect here, but it has a form.
		if _, err := relay.ParseNotePreferred(body); err != nil {
			return err
		}
	default:
		s.count.unknownFrames.Add(1)
	}
	return nil
}

// forward hands a packet to the queue of another client.
func (c *client) forward(dst identity.NodeID, payload []byte) {
	s := c.server
	s.count.packetsReceived.Add(1)
	s.count.bytesReceived.Add(uint64(len(payload)))
	if relay.IsDisco(payload) {
		s.count.discoReceived.Add(1)
	}
	if !c.live.Load() {
		s.count.packetsDropped.Add(1)
		return
	}
	other := s.registry.get(dst)
	if other == nil {
		s.count.unknownDest.Add(1)
		return
	}
	if !other.queue.PushPacket(relay.TypeRecvPacket, c.id, payload) {
		return
	}
	s.count.packetsQueued.Add(1)
	if dst != c.lastDst {
		c.lastDst = dst
		if len(c.sentTo) < maxSentTo {
			c.sentTo[dst] = struct{}{}
		}
	}
}

// pace holds the reader back while the client sends more than it may: n bytes came, of
// frames or of anything else. It reports false when the connection ends meanwhile.
func (c *client) pace(n int) bool {
	l := &c.server.cfg.Limits
	if l.ReceivePerClient == 0 && l.ReceiveTotal == 0 {
		return true
	}
	var debt time.Duration
	now := time.Now()
	if rate := l.ReceivePerClient; rate > 0 {
		debt = c.budget.Spend(now, float64(n), float64(rate), float64(l.ReceiveBurst))
	}
	if rate := l.ReceiveTotal; rate > 0 {
		debt = max(debt, c.server.received.Spend(now, float64(n), float64(rate), float64(l.ReceiveTotalBurst)))
	}
	if debt == 0 {
		return true
	}
	c.throttle()
	timer := time.NewTimer(debt)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.stopping:
		return false
	}
}

// throttle counts reads that were held back, and the clients that caused such.
func (c *client) throttle() {
	c.server.count.framesThrottled.Add(1)
	if !c.held {
		c.held = true
		c.server.count.clientsThrottled.Add(1)
	}
}

// writeLoop writes the queue, pings, and ends the connection.
func (c *client) writeLoop(readDone <-chan struct{}) {
	defer c.conn.Close()
	err := c.write(readDone)
	if !errors.Is(err, errStopped) {
		return
	}
	c.linger(readDone)
}

func (c *client) write(readDone <-chan struct{}) error {
	live := relay.Liveness{Server: true}
	var sent time.Time
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		action, next := live.Next(time.Now(), c.conn.Received(), sent)
		switch action {
		case relay.LivePing:
			c.queue.PushControl(relay.AppendPing(nil, randomData()))
		case relay.LiveKeepAlive:
			c.queue.PushControl(relay.AppendKeepAlive(nil))
		case relay.LiveDead:
			return errUnanswered
		}
		if written, err := c.writeSome(); err != nil {
			return err
		} else if written {
			sent = time.Now()
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-c.queue.Ready():
		case <-timer.C:
		case <-readDone:
			return nil
		case <-c.stopping:
			return errStopped
		}
	}
}

func (c *client) writeSome() (bool, error) {
	b := c.queue.Take()
	if b == nil {
		return false, nil
	}
	n := len(b)
	c.server.count.bytesSent.Add(uint64(n))
	begin := time.Now()
	err := c.conn.Write(b)
	took := time.Since(begin)
	c.queue.Done()
	if c.speed.Wrote(n, took) {
		c.queue.SetBlock(c.speed.Limit())
		if c.raw != nil {
			c.raw.LimitUnsent(c.speed.Limit())
		}
	}
	return true, err
}

// linger writes what waits, says that nothing more comes, and gives the client
// a moment to read it: a connection closed with unread data is reset, and the
// last words are lost.
func (c *client) linger(readDone <-chan struct{}) {
	for {
		if written, err := c.writeSome(); err != nil {
			return
		} else if !written {
			break
		}
	}
	c.conn.CloseWrite()
	<-readDone
}

func randomData() (data [8]byte) {
	_, _ = rand.Read(data[:])
	return data
}
