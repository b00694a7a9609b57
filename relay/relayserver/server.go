package relayserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/metrics"
	"github.com/nodetun/nodetun/internal/ratelimit"
	"github.com/nodetun/nodetun/internal/webserver"
	"github.com/nodetun/nodetun/relay"
)

const (
	// loginTimeout bounds the time from the upgrade to the login frame, and that of a
	// connection to this server until there was a login.
	loginTimeout = 10 * time.Second
	// writeStall is how long a client may take nothing of what is written.
	writeStall = 2 * time.Second
	// headTimeout and idleTimeout are those of HTTP requests.
	headTimeout = 10 * time.Second
	idleTimeout = 30 * time.Second
	maxHead     = 16 << 10
)

// Server is a relay.
type Server struct {
	cfg    Config
	logger *slog.Logger
	// acceptErr is why the last connection could not be accepted; nil for never.
	acceptErr atomic.Pointer[error]
	guard     *guard
	logins    *ratelimit.Table
	received  ratelimit.Shared
	names     names
	proven    *proven
	registry  registry
	crowd     crowd // behind proxies
	pool      relay.Pool
	count     counters
	stall     time.Duration // writeStall

	acme *autocert.Manager // nil: certificates are not fetched

	shutdown context.Context // done when the clients are to leave
	cancel   context.CancelFunc

	mu       sync.Mutex // guards the fields below
	closed   bool       // no client may come any more
	clients  sync.WaitGroup
	listener net.Listener // nil: not listening
	captive  net.Listener // nil: none
	metrics  net.Listener // nil: none
	stun     []*stunServer
}

// New makes a relay; it binds and starts nothing. It returns ErrNoAccess and
// ErrNoCertificate for what only Dev may leave out.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.normalise()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:    cfg,
		logger: cfg.Logger,
		guard:  newGuard(cfg.Access, cfg.Logger),
		logins: ratelimit.NewTable(cfg.Limits.LoginsPerSecond),
		stall:  writeStall,
	}
	s.names = newNames(&cfg)
	s.crowd = crowd{max: cfg.Limits.ConnsPerPrefix, open: make(map[netip.Prefix]int)}
	if s.proven, err = openProven(cfg.LoginsFile, s.registry.has); err != nil {
		return nil, err
	}
	s.registry.clients = make(map[identity.NodeID]*client)
	s.registry.spares = make(map[identity.NodeID][]*client)
	s.shutdown, s.cancel = context.WithCancel(context.Background())
	if cfg.ACME != nil {
		s.acme = webserver.NewManager(s.shutdown, cfg.ACME)
		s.cfg.TLS = webserver.ManagedTLS(s.acme, cfg.ACME.Hosts[0], "http/1.1")
	}
	return s, nil
}

// Listen binds all sockets, so that Addr and STUNAddr know them. Whoever calls
// it also calls Run, which closes them.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return nil
	}
	if err := s.listenLocked(); err != nil {
		s.closeSocketsLocked()
		return err
	}
	return nil
}

func (s *Server) listenLocked() error {
	l, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return bindError("HTTP", s.cfg.Addr, err)
	}
	s.listener = l
	if s.cfg.CaptiveAddr != "" && s.cfg.secure() {
		if s.captive, err = net.Listen("tcp", s.cfg.CaptiveAddr); err != nil {
			return bindError("captive portal test", s.cfg.CaptiveAddr, err)
		}
	}
	if s.cfg.MetricsAddr != "" {
		if s.metrics, err = net.Listen("tcp", s.cfg.MetricsAddr); err != nil {
			return bindError("metrics", s.cfg.MetricsAddr, err)
		}
	}
	if s.cfg.STUNAddr == "none" {
		return nil
	}
	conns, err := listenSTUN(s.cfg.STUNAddr)
	if err != nil {
		return bindError("STUN", s.cfg.STUNAddr, err)
	}
	limit := ratelimit.NewTable(s.cfg.Limits.STUNPerSecond)
	for _, conn := range conns {
		s.stun = append(s.stun, &stunServer{conn: conn, limit: limit, count: &s.count})
	}
	return nil
}

// bindError says in one line what could not be bound, and why.
func bindError(what, addr string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return fmt.Errorf("relay cannot listen on %s for %s: %w", addr, what, err)
}

func (s *Server) closeSocketsLocked() {
	for _, l := range []net.Listener{s.listener, s.captive, s.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
	for _, st := range s.stun {
		_ = st.conn.Close()
	}
	s.listener, s.captive, s.metrics, s.stun = nil, nil, nil, nil
}

// Addr returns the TCP address that is bound, nil before Listen.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// STUNAddr returns the first UDP address that is bound, zero if there is none.
func (s *Server) STUNAddr() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stun) == 0 {
		return netip.AddrPort{}
	}
	return localAddrPort(s.stun[0].conn)
}

// MetricsAddr returns the TCP address of the metrics, nil if there is none.
func (s *Server) MetricsAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.metrics == nil {
		return nil
	}
	return s.metrics.Addr()
}

// Run serves until ctx is done, tells the clients to come back to whoever listens
// then, lets them leave and returns nil when all that it started is gone. It
// returns at once with one clear line when an address cannot be bound. It is called
// once.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	if err := s.Listen(); err != nil {
		return err
	}
	s.mu.Lock()
	main, captive, metricsAt, stun := s.listener, s.captive, s.metrics, s.stun
	s.mu.Unlock()
	s.logger.Info("relay listens", "addr", main.Addr().String(), "tls", s.cfg.secure())

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveHTTP(ctx, s.wrap(main), s.Handler()) })
	if captive != nil {
		group.Go(func() error { return s.serveHTTP(ctx, s.limit(captive), s.captiveHandler()) })
	}
	if metricsAt != nil {
		group.Go(func() error {
			return metrics.Serve(ctx, metricsAt, metrics.Options{Gather: s.Metrics, Profiles: s.cfg.Profiles})
		})
	}
	if s.acme != nil {
		group.Go(func() error { webserver.Fetch(s.shutdown, s.acme, s.cfg.ACME.Hosts, s.logger); return nil })
	}
	for _, st := range stun {
		group.Go(func() error { return st.run(ctx) })
	}
	group.Go(func() error { s.tellRefusals(ctx); return nil })
	// What is asked of others ends with the clients.
	defer context.AfterFunc(ctx, s.dismiss)()
	return group.Wait()
}

// Close makes all clients leave and waits for them. Run does it too; a process
// that uses only Handler calls it itself.
func (s *Server) Close() {
	s.dismiss()
	s.clients.Wait()
	s.guard.close()
	s.proven.close()
}

// dismiss lets nobody in any more and sends the clients away.
func (s *Server) dismiss() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.closeSocketsLocked()
	s.mu.Unlock()
	s.registry.announceRestart()
	s.cancel()
}

// admit counts a connection in, unless the server is closing.
func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.clients.Add(1)
	return true
}

// proxies are those before this relay.
func (s *Server) proxies() webserver.Proxies { return s.cfg.TrustedProxies }

func (s *Server) limit(l net.Listener) net.Listener {
	return webserver.Limits{
		Total: s.cfg.Limits.Conns, PerPrefix: s.cfg.Limits.ConnsPerPrefix,
		Rate: float64(s.cfg.Limits.AcceptsPerSecond), Burst: float64(s.cfg.Limits.AcceptBurst),
		Proxied: s.proxies().Trust, Refused: func() { s.count.connsLimited.Add(1) }, Failed: s.acceptFailed, Tell: true,
		Wrap: func(c net.Conn) net.Conn { return relay.NewConn(c, s.stall) },
	}.Listener(l)
}

func (s *Server) wrap(l net.Listener) net.Listener {
	l = s.limit(l)
	l = s.proxies().Listener(l)
	if s.cfg.TLS != nil {
		l = tls.NewListener(l, s.cfg.TLS)
	}
	return l
}

// A request's socket, a *relay.Conn, and its place among the limited, a *webserver.LimitedConn, have
// these keys.
type (
	rawConn   struct{}
	placeConn struct{}
)

// placeOf returns what is below TLS and the PROXY header, nil if it is none of ours.
func placeOf(c net.Conn) *webserver.LimitedConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if p, ok := c.(*proxyproto.Conn); ok {
		c = p.Raw()
	}
	place, _ := c.(*webserver.LimitedConn)
	return place
}

// serveHTTP serves until ctx is done.
func (s *Server) serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHead,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			place := placeOf(c)
			if place == nil {
				return ctx
			}
			raw, _ := place.Conn.(*relay.Conn)
			// Whatever it sends meanwhile: heads, bodies, one request after the other (S26).
			place.CloseAfter(loginTimeout)
			return context.WithValue(context.WithValue(ctx, rawConn{}, raw), placeConn{}, place)
		},
		// What net/http says holds addresses.
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		return fmt.Errorf("relay: %w", err)
	}
	return nil
}
