package relayactor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// Config is what an Actor needs. Key and Deliver must be set.
type Config struct {
	// Key is the node's own.
	Key *identity.SecretKey
	// Logger may be nil.
	Logger *slog.Logger
	// Deliver is given the batch of one frame that arrived through the relay
	// at url; see relay.NextDatagram. The payload is valid until it returns. It
	// is called by the goroutines that read, one for each relay.
	Deliver func(url identity.RelayURL, src identity.NodeID, payload []byte)
	// Admit decides whose packets are delivered and for whom a relay that was
	// not configured is dialled; nil admits everybody. It must be fast.
	Admit func(identity.NodeID) bool
	// Changed is called when the home or the state of a link has changed; it
	// may be nil.
	Changed func()
	// LinkChanged is called with false when a link broke or could not be made, and
	// with true when it came up, or was given up because nobody uses it. It may be
	// nil.
	LinkChanged func(url identity.RelayURL, up bool)
	// Proxy names the proxy for a configured relay, see relayclient.Config; to
	// others there is none. It may be nil.
	Proxy func(relay *url.URL) *url.URL
	// DNS finds the addresses of relays; nil: as package net does.
	DNS *net.Resolver
	// Control is called on each socket before it connects; it may be nil.
	Control func(network, address string, c syscall.RawConn) error
	// Configured are the relays that are trusted with any address and with
	// plain http.
	Configured []identity.RelayURL
	// Tokens are shown to the configured relays that want one.
	Tokens map[identity.RelayURL]string
	// TunPrefixes are prefixes routed into a device of ours: no foreign relay
	// is dialled there (S10).
	TunPrefixes []netip.Prefix
	// InsecureTLS skips the check of certificates; for tests.
	InsecureTLS bool
	// Dial replaces the opening of TCP connections; for tests. nil means the
	// network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// State is that of one link.
type State string

// The states.
const (
	StateConnecting State = "connecting"
	StateConnected  State = "connected"
	StateFailed     State = "failed" // and tried again after a while
)

// Status describes one link.
type Status struct {
	URL       identity.RelayURL
	Home      bool
	State     State
	RTT       time.Duration // zero: not known
	LastError string        // of the last failure, empty when connected
	Since     time.Time     // when State began
	Shared    bool          // another machine uses our key there, and gets our packets
	Flooded   bool          // nodes that are not admitted send more than 64 KiB/s by it
}

// Counters count since New.
type Counters struct {
	Dials           uint64 // connections tried
	DialErrors      uint64
	PacketsReceived uint64 // frames delivered
	BytesReceived   uint64 // of their payloads
	NotAdmitted     uint64 // frames dropped because of their source
	NotAdmittedSize uint64 // bytes of these
	BatchesSent     uint64 // calls of Send that were taken
	BytesSent       uint64
	Dropped         uint64 // calls of Send that were not, or not wholly
	Refused         uint64 // relays that S10 forbids
}

// Actor keeps the connections to relays.
type Actor struct {
	cfg        Config
	logger     *slog.Logger
	pool       relay.Pool
	tls        *tls.Config
	configured map[identity.RelayURL]bool
	begin      time.Time
	start      chan struct{} // holds one token when a link waits for Run
	count      counters

	mu      sync.RWMutex // guards the fields below; taken before a link's mu
	links   map[identity.RelayURL]*link
	pending []*link // made, but not started yet
	home    identity.RelayURL
	prefs   []identity.RelayURL // what may be home, the best first
	kept    []identity.RelayURL // those of prefs that are to stay connected
	wakeAt  time.Time           // when to reconsider the home; zero: when something happens
	foreign foreignLimit
	closed  bool
}

// counters are the live form of Counters.
type counters struct {
	dials, dialErrors, packetsReceived, bytesReceived    atomic.Uint64
	notAdmitted, notAdmittedSize, batchesSent, bytesSent atomic.Uint64
	dropped, refused                                     atomic.Uint64
}

// New makes an Actor; it starts nothing.
func New(cfg Config) *Actor {
	a := &Actor{
		cfg:        cfg,
		logger:     cfg.Logger,
		configured: make(map[identity.RelayURL]bool),
		begin:      time.Now(),
		start:      make(chan struct{}, 1),
		links:      make(map[identity.RelayURL]*link),
		tls: &tls.Config{
			ClientSessionCache: tls.NewLRUClientSessionCache(16),
			InsecureSkipVerify: cfg.InsecureTLS,
		},
	}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	for _, url := range cfg.Configured {
		a.configured[url] = true
	}
	return a
}

// Run keeps the links until ctx is done; then it closes them and returns nil
// when all are gone. It is called once.
func (a *Actor) Run(ctx context.Context) error {
	if a.cfg.Key == nil || a.cfg.Deliver == nil {
		return errors.New("relayactor: no key or nowhere to deliver to")
	}
	var wg sync.WaitGroup
	again := time.NewTimer(0)
	defer again.Stop()
	for ctx.Err() == nil {
		for _, l := range a.takePending() {
			wg.Go(func() { l.run(ctx) })
		}
		again.Reset(a.lookAgain())
		select {
		case <-a.start:
		case <-again.C:
			a.reconsider()
		case <-ctx.Done():
		}
	}
	a.close()
	wg.Wait()
	return nil
}

func (a *Actor) takePending() []*link {
	a.mu.Lock()
	defer a.mu.Unlock()
	links := a.pending
	a.pending = nil
	return links
}

func (a *Actor) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.pending = nil
}

// Send queues datagrams for dst, which is found at the relay url. pkts holds
// them one behind the other, each seg bytes long, the last one shorter; they
// are copied. It never blocks. False means that some were dropped: the queue
// is full, S10 forbids the relay, or Run has ended.
func (a *Actor) Send(url identity.RelayURL, dst identity.NodeID, pkts []byte, seg int) bool {
	ok := a.send(url, dst, pkts, seg)
	if ok {
		a.count.batchesSent.Add(1)
		a.count.bytesSent.Add(uint64(len(pkts)))
	} else {
		a.count.dropped.Add(1)
	}
	return ok
}

func (a *Actor) send(url identity.RelayURL, dst identity.NodeID, pkts []byte, seg int) bool {
	a.mu.RLock()
	l := a.links[url]
	if l == nil || !l.connected.Load() {
		if r := a.otherLocked(l, dst); r != nil {
			if l != nil {
				l.touch() // it goes on being tried
			}
			l = r
		}
	}
	if l != nil {
		// Under the lock, so that the link cannot retire with the packet.
		defer a.mu.RUnlock()
		l.touch()
		return l.queue.PushDatagrams(dst, pkts, seg)
	}
	a.mu.RUnlock()
	return a.sendNew(url, dst, pkts, seg)
}

// otherLocked returns a connected link through which dst may be reached while the
// one to its own relay, nil for none yet, is not: one where it was heard, else,
// when that relay failed, our home, which it may share.
func (a *Actor) otherLocked(own *link, dst identity.NodeID) *link {
	for _, l := range a.links {
		if l.connected.Load() && l.heard.has(dst) {
			return l
		}
	}
	if own == nil {
		return nil
	}
	if state, _ := own.stateSince(); state != StateFailed {
		return nil
	}
	if home := a.links[a.home]; home != nil && home.connected.Load() {
		return home
	}
	return nil
}

// sendNew makes the link that Send did not find.
func (a *Actor) sendNew(url identity.RelayURL, dst identity.NodeID, pkts []byte, seg int) bool {
	if url.IsZero() {
		return false
	}
	foreign := !a.configured[url]
	if foreign && a.cfg.Admit != nil && !a.cfg.Admit(dst) {
		a.count.refused.Add(1)
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.links[url]
	if l == nil {
		if a.closed {
			return false
		}
		if foreign {
			if err := a.mayDialLocked(url, time.Now()); err != nil {
				a.count.refused.Add(1)
				a.logger.Debug("foreign relay refused", "relay", url.String(), "error", err)
				return false
			}
		}
		l = a.addLocked(url, foreign)
	}
	l.touch()
	return l.queue.PushDatagrams(dst, pkts, seg)
}

func (a *Actor) addLocked(url identity.RelayURL, foreign bool) *link {
	l := newLink(a, url, foreign)
	a.links[url] = l
	a.pending = append(a.pending, l)
	a.rouse()
	return l
}

// retire forgets a link that is neither home nor in use; false means it must
// go on.
func (a *Actor) retire(l *link) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keepsLocked(l) || l.idle() < idleClose {
		return false
	}
	delete(a.links, l.url)
	l.queue.Clear()
	return true
}

// NetworkChanged tells that addresses or routes of this host have changed, or its
// address as others see it. Connections whose local address is gone are replaced, and
// others that do not answer a ping within a second; who waits for the next try tries
// now. slept says that the host was asleep: then all are replaced.
func (a *Actor) NetworkChanged(slept bool) {
	for _, l := range a.all() {
		l.networkChanged(slept)
	}
}

// Status returns the state of every link, the home first.
func (a *Actor) Status() []Status {
	home := a.Home()
	var list []Status
	for _, l := range a.all() {
		s := l.status()
		s.Home = s.URL == home
		list = append(list, s)
	}
	slices.SortFunc(list, func(x, y Status) int {
		if x.Home != y.Home {
			if x.Home {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.URL.String(), y.URL.String())
	})
	return list
}

// Counters returns what was counted since New.
func (a *Actor) Counters() Counters {
	c := &a.count
	return Counters{
		Dials: c.dials.Load(), DialErrors: c.dialErrors.Load(),
		PacketsReceived: c.packetsReceived.Load(), BytesReceived: c.bytesReceived.Load(),
		NotAdmitted: c.notAdmitted.Load(), NotAdmittedSize: c.notAdmittedSize.Load(),
		BatchesSent: c.batchesSent.Load(), BytesSent: c.bytesSent.Load(),
		Dropped: c.dropped.Load(), Refused: c.refused.Load(),
	}
}

func (a *Actor) all() []*link {
	a.mu.RLock()
	defer a.mu.RUnlock()
	links := make([]*link, 0, len(a.links))
	for _, l := range a.links {
		links = append(links, l)
	}
	return links
}

func (a *Actor) isHome(l *link) bool { return a.Home() == l.url }

func (a *Actor) changed() {
	if a.cfg.Changed != nil {
		a.cfg.Changed()
	}
}
