package mdns

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/ratelimit"
)

// Source is the name of what this package finds.
const Source = "mdns"

// When things are said. A link on which nobody looks for anybody is silent.
const (
	// An announcement is repeated after these times: packets get lost, and a bridge
	// forwards none in its first second.
	announceAfter, announceAgain = time.Second, 4 * time.Second
	// askAgain is when a question is repeated, resolveTime when nobody is waited for
	// any more.
	askAgain, resolveTime = time.Second, 3 * time.Second
	// answerSpread is the time in which those who are asked answer, so that not all do
	// so at once; who has seen enough answers by then says nothing (iroh-net).
	answerSpread  = 100 * time.Millisecond
	enoughAnswers = 2
	// freshTime is for how long something heard is taken for an answer.
	freshTime = time.Minute
)

// Limits.
const (
	maxHeard   = 512 // nodes that are remembered
	maxReads   = 500 // packets a second that are looked at
	maxAnswers = 5   // a second
)

// Config says how a Node works. ID is required.
type Config struct {
	ID identity.NodeID
	// Skip says which links are not used, by name. Nil: none.
	Skip func(link string) bool
	// Control is given the socket before it is bound. May be nil.
	Control func(network, address string, c syscall.RawConn) error
	// OnFound is told all that others announce. It must not block. May be nil.
	OnFound func(discovery.Item)
	// Logger may be nil.
	Logger *slog.Logger
}

// Node finds others and announces this one, while it runs. It is a discovery.Resolver and
// a discovery.Publisher.
type Node struct {
	cfg   Config
	socks caster
	find  func() []way  // that this host has
	kick  chan struct{} // holds one: announce

	mu      sync.Mutex // guards the fields below
	heard   map[identity.NodeID]heard
	addr    identity.NodeAddr
	ways    []way
	last    announced
	waiting map[*waiter]struct{}
	answers int              // of others since somebody asked who is there
	reads   ratelimit.Bucket // packets looked at
	said    ratelimit.Bucket // answers given
	pending bool             // an answer to who is there is on its way
}

// way is a link, by its number, and a version of IP.
type way struct {
	link int
	six  bool
}

// announced is what was told to whom.
type announced struct {
	ways  []way
	addrs []netip.AddrPort
}

// heard is what a node said of itself, and when.
type heard struct {
	addr identity.NodeAddr
	at   time.Time
}

// caster sends and receives by multicast.
type caster interface {
	// use joins the groups on these ways, and no others; it returns readers that are new.
	use(ways []way) []reader
	send(b []byte, by way)
	close()
}

// reader returns a packet and the way by which it came; net.ErrClosed when that is not used
// any more.
type reader func(buf []byte) (n int, from way, err error)

// waiter waits for one node.
type waiter struct {
	id    identity.NodeID
	found chan identity.NodeAddr // holds one
}

var (
	_ discovery.Resolver  = (*Node)(nil)
	_ discovery.Publisher = (*Node)(nil)
)

// New binds a socket; Run uses and closes it.
func New(cfg Config) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	socks, err := open(cfg.Control)
	if err != nil {
		return nil, err
	}
	return newNode(cfg, socks), nil
}

func newNode(cfg Config, socks caster) *Node {
	n := &Node{
		cfg: cfg, socks: socks, kick: make(chan struct{}, 1), waiting: make(map[*waiter]struct{}),
		heard: make(map[identity.NodeID]heard),
	}
	n.find = n.links
	return n
}

// Publish implements discovery.Publisher: the direct addresses are announced, if they or
// the links of this host are others than before.
func (n *Node) Publish(addr identity.NodeAddr) {
	n.mu.Lock()
	n.addr = addr
	n.mu.Unlock()
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// Close releases a Node that is not run.
func (n *Node) Close() { n.socks.close() }

// Run works until ctx ends, and says goodbye then.
func (n *Node) Run(ctx context.Context) error {
	var readers sync.WaitGroup
	defer readers.Wait()
	defer n.socks.close()
	look := func() {
		for _, from := range n.look() {
			readers.Go(func() { n.read(ctx, from) })
		}
	}
	look()
	var again <-chan time.Time
	left := 0
	for {
		select {
		case <-ctx.Done():
			n.send(farewell(n.cfg.ID))
			return nil
		case <-n.kick:
			if look(); !n.changed() {
				continue
			}
			left = 2
		case <-again:
			left--
		}
		if b := n.announcement(); b != nil {
			n.send(b)
		}
		again = nil
		switch left {
		case 2:
			again = time.After(announceAfter)
		case 1:
			again = time.After(announceAgain)
		}
	}
}

func (n *Node) announcement() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return announcement(n.addr)
}

// look joins the groups on all links, and returns the readers that are new.
func (n *Node) look() []reader {
	ways := n.find()
	n.mu.Lock()
	n.ways = ways
	n.mu.Unlock()
	return n.socks.use(ways)
}

// links are the ways of this host.
func (n *Node) links() []way {
	links, err := net.Interfaces()
	if err != nil {
		n.cfg.Logger.Debug("links cannot be listed", "err", err)
		return nil
	}
	var ways []way
	for _, link := range links {
		const wanted = net.FlagUp | net.FlagMulticast
		if link.Flags&wanted != wanted || link.Flags&net.FlagLoopback != 0 || n.cfg.Skip != nil && n.cfg.Skip(link.Name) {
			continue
		}
		four, six := versions(&link)
		if four {
			ways = append(ways, way{link.Index, false})
		}
		if six {
			ways = append(ways, way{link.Index, true})
		}
	}
	return ways
}

// versions reports of which versions of IP a link has addresses.
func versions(link *net.Interface) (four, six bool) {
	addrs, _ := link.Addrs() // one that is gone has none
	for _, addr := range addrs {
		if prefix, ok := addr.(*net.IPNet); ok && prefix.IP.To4() != nil {
			four = true
		} else if ok {
			six = true
		}
	}
	return four, six
}

// changed reports whether the ways or the addresses are others than when it was last asked.
func (n *Node) changed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := announced{n.ways, slices.Clone(n.addr.Direct)}
	same := slices.Equal(now.ways, n.last.ways) && slices.Equal(now.addrs, n.last.addrs)
	n.last = now
	return !same
}

// send sends by all ways.
func (n *Node) send(b []byte) {
	n.mu.Lock()
	ways := n.ways
	n.mu.Unlock()
	for _, by := range ways {
		n.socks.send(b, by)
	}
}

// ask sends once to each link: by IPv4 if it has that, as nodes of iroh-net do.
func (n *Node) ask(b []byte) {
	n.mu.Lock()
	ways := n.ways
	n.mu.Unlock()
	for _, by := range ways {
		if !by.six || !slices.Contains(ways, way{by.link, false}) {
			n.socks.send(b, by)
		}
	}
}

// read takes packets until the socket is closed.
func (n *Node) read(ctx context.Context, from reader) {
	buf := make([]byte, 9000)
	for {
		k, by, err := from(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // a link went down
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		n.handle(ctx, buf[:k], by)
	}
}

// handle takes one packet.
func (n *Node) handle(ctx context.Context, b []byte, by way) {
	n.mu.Lock()
	known := slices.Contains(n.ways, by) && n.reads.Take(time.Now(), maxReads, maxReads)
	n.mu.Unlock()
	if !known {
		return
	}
	m, err := parse(b)
	switch {
	case err != nil:
	case m.asked == n.cfg.ID:
		n.answer(by)
	case m.asks:
		n.answerLater(ctx, by)
	case !m.left.IsZero() && m.left != n.cfg.ID:
		n.mu.Lock()
		delete(n.heard, m.left)
		n.mu.Unlock()
	case !m.addr.ID.IsZero() && m.addr.ID != n.cfg.ID:
		n.hear(m.addr)
	}
}

// answer says where this node is, by the way that the question came.
func (n *Node) answer(by way) {
	n.mu.Lock()
	b := announcement(n.addr)
	may := b != nil && n.said.Take(time.Now(), maxAnswers, maxAnswers)
	n.mu.Unlock()
	if may {
		n.socks.send(b, by)
	}
}

// answerLater answers who is there, after a while and unless enough others did.
func (n *Node) answerLater(ctx context.Context, by way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending {
		return
	}
	n.pending, n.answers = true, 0
	time.AfterFunc(rand.N(answerSpread), func() {
		n.mu.Lock()
		n.pending = false
		enough := n.answers >= enoughAnswers
		n.mu.Unlock()
		if !enough && ctx.Err() == nil {
			n.answer(by)
		}
	})
}

// hear takes what another node says of itself.
func (n *Node) hear(addr identity.NodeAddr) {
	n.mu.Lock()
	n.rememberLocked(addr, time.Now())
	n.answers++
	for w := range n.waiting {
		if w.id == addr.ID {
			select {
			case w.found <- addr:
			default:
			}
		}
	}
	n.mu.Unlock()
	if n.cfg.OnFound != nil {
		n.cfg.OnFound(discovery.Item{Addr: addr, Source: Source})
	}
}

// rememberLocked keeps what was heard, in the place of something old if there is much.
func (n *Node) rememberLocked(addr identity.NodeAddr, now time.Time) {
	if _, ok := n.heard[addr.ID]; !ok && len(n.heard) >= maxHeard {
		oldest := addr.ID
		for id, h := range n.heard {
			if oldest == addr.ID || h.at.Before(n.heard[oldest].at) {
				oldest = id
			}
		}
		delete(n.heard, oldest)
	}
	n.heard[addr.ID] = heard{addr, now}
}

// ErrSilent says that the node did not answer.
var ErrSilent = errors.New("mdns: no answer on the links of this host")

// Resolve tells what was heard of the node, and asks for it until it answers, for 3 s.
func (n *Node) Resolve(ctx context.Context, id identity.NodeID, found func(discovery.Item)) error {
	w := &waiter{id: id, found: make(chan identity.NodeAddr, 1)}
	n.mu.Lock()
	n.waiting[w] = struct{}{}
	last, known := n.heard[id]
	n.mu.Unlock()
	if known = known && time.Since(last.at) < freshTime; known {
		found(discovery.Item{Addr: last.addr, Source: Source})
	}
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.waiting, w)
	}()
	over := time.NewTimer(resolveTime)
	defer over.Stop()
	n.ask(query()) // for nodes of iroh, once: all of them answer
	for ask := n.ask; ; ask = n.send {
		ask(queryFor(id))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over.C:
			if known {
				return nil
			}
			return ErrSilent
		case addr := <-w.found:
			found(discovery.Item{Addr: addr, Source: Source})
			return nil
		case <-time.After(askAgain):
		}
	}
}
