package discoveryserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/internal/metrics"
	"github.com/nodetun/nodetun/internal/ratelimit"
	"github.com/nodetun/nodetun/internal/webserver"
)

// Config says what to serve. The zero value, with addresses, serves from memory.
type Config struct {
	// Addr is the TCP address for HTTP, DNSAddr the UDP and TCP address for DNS, and
	// MetricsAddr the one for metrics. Empty: none of that kind.
	Addr, DNSAddr, MetricsAddr string
	// Profiles serves profiles of the process beside the metrics.
	Profiles bool
	// CertFile and KeyFile, in PEM, or ACME are how HTTP gets its certificate. None: it is
	// plain.
	CertFile, KeyFile string
	ACME              *webserver.ACME
	// TrustedProxies stand before this server: what they say of a client's address counts
	// for the limits (PROXY protocol, X-Forwarded-For).
	TrustedProxies webserver.Proxies
	// Origins are the zones below which nodes have their records. None: the root, so
	// that _iroh.<z-base-32> is a name of its own.
	Origins []string
	// NameServers and Addrs are what the zones say of this server itself.
	NameServers []string
	Addrs       []netip.Addr
	// Store keeps the packets; Close of the server closes it. Nil: NewMemory.
	Store Store
	// Fallback finds nodes that the store does not know, for the DNS. Nil: nobody does.
	Fallback Getter
	// Keep is how long a packet is kept that is not put again. Zero: 7 days.
	Keep time.Duration
	// PutsPerSecond bounds the packets put from one network (IPv4 /24, IPv6 /56), and
	// QueriesPerSecond what is asked from one, by UDP and again by TCP. Zero: 10 and 200; negative: no limit.
	PutsPerSecond, QueriesPerSecond int
	// Conns bounds the TCP connections for HTTP, and as many for DNS, ConnsPerPrefix those
	// from one network. Zero: 20000 and 256; negative: no limit.
	Conns, ConnsPerPrefix int
	// Logger defaults to discarding.
	Logger *slog.Logger
}

// Limits that are not set.
const (
	defaultKeep    = 7 * 24 * time.Hour
	defaultPuts    = 10
	defaultQueries = 200
	defaultConns   = 20000
	defaultPerNet  = 256
)

// Server is a discovery server.
type Server struct {
	cfg       Config
	log       *slog.Logger
	httpLog   *log.Logger
	store     Store
	cache     *cache    // for the DNS
	elsewhere *fallback // nil: nowhere
	origins   []string
	puts      *ratelimit.Table
	queries   *ratelimit.Table // by UDP, which may be asked in another's name
	asked     *ratelimit.Table // by TCP
	count     counters
	told      atomic.Int64 // when an error of the store was last logged, Unix seconds

	tls  *tls.Config // nil: plain
	acme *autocert.Manager

	stop context.CancelFunc // ends what is asked of others
	life context.Context

	http, metrics net.Listener // nil: none
	dnsUDP        net.PacketConn
	dnsTCP        net.Listener
}

// New makes a server; it binds and starts nothing.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Store == nil {
		cfg.Store = NewMemory()
	}
	if len(cfg.Origins) == 0 {
		cfg.Origins = []string{"."}
	}
	if cfg.Keep == 0 {
		cfg.Keep = defaultKeep
	}
	life, stop := context.WithCancel(context.Background())
	s := &Server{
		life: life, stop: stop, cfg: cfg, log: cfg.Logger, store: cfg.Store, cache: newCache(cfg.Store), origins: sortedOrigins(cfg.Origins),
		// What net/http says holds addresses.
		httpLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		puts:    limit(cfg.PutsPerSecond, defaultPuts), queries: limit(cfg.QueriesPerSecond, defaultQueries), asked: limit(cfg.QueriesPerSecond, defaultQueries),
	}
	if cfg.Fallback != nil {
		s.elsewhere = newFallback(life, cfg.Fallback)
	}
	return s
}

func limit(set, standard int) *ratelimit.Table { return ratelimit.NewTable(limitOf(set, standard)) }

// limitOf is a limit that was set, or the standard one; 0: none.
func limitOf(set, standard int) int {
	if set == 0 {
		set = standard
	}
	return max(set, 0)
}

// conns bounds the connections of a listener.
func (s *Server) conns(l net.Listener) net.Listener {
	return webserver.Limits{
		Total: limitOf(s.cfg.Conns, defaultConns), PerPrefix: limitOf(s.cfg.ConnsPerPrefix, defaultPerNet),
		Proxied: s.cfg.TrustedProxies.Trust, Refused: func() { s.count.connsLimited.Add(1) },
	}.Listener(l)
}

// Listen binds all addresses, so that Addr and the others know them. Whoever calls it also
// calls Run, or Close.
func (s *Server) Listen() error {
	err := s.listen()
	if err != nil {
		s.closeSockets()
	}
	return err
}

func (s *Server) listen() (err error) {
	if err := s.loadTLS(); err != nil {
		return err
	}
	if s.cfg.Addr != "" {
		if s.http, err = net.Listen("tcp", s.cfg.Addr); err != nil {
			return bindError("HTTP", s.cfg.Addr, err)
		}
	}
	if s.cfg.DNSAddr != "" {
		if s.dnsTCP, err = net.Listen("tcp", s.cfg.DNSAddr); err != nil {
			return bindError("DNS", s.cfg.DNSAddr, err)
		}
		// The same port, if any free one was asked for.
		if s.dnsUDP, err = net.ListenPacket("udp", s.dnsTCP.Addr().String()); err != nil {
			return bindError("DNS", s.cfg.DNSAddr, err)
		}
	}
	if s.cfg.MetricsAddr != "" {
		if s.metrics, err = net.Listen("tcp", s.cfg.MetricsAddr); err != nil {
			return bindError("metrics", s.cfg.MetricsAddr, err)
		}
	}
	return nil
}

// loadTLS makes tls from whatever names a certificate.
func (s *Server) loadTLS() error {
	protocols := []string{"h2", "http/1.1"}
	switch {
	case s.cfg.ACME != nil:
		s.acme = webserver.NewManager(s.life, s.cfg.ACME)
		s.tls = webserver.ManagedTLS(s.acme, s.cfg.ACME.Hosts[0], protocols...)
	case s.cfg.CertFile != "" && s.cfg.KeyFile != "":
		file, err := webserver.OpenCertificate(s.cfg.CertFile, s.cfg.KeyFile, s.log)
		if err != nil {
			return err
		}
		s.tls = &tls.Config{GetCertificate: file.Get}
		webserver.Harden(s.tls, protocols...)
	case s.cfg.CertFile != "" || s.cfg.KeyFile != "":
		return errors.New("a certificate file and a key file belong together")
	}
	return nil
}

func bindError(what, addr string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return fmt.Errorf("discovery cannot listen on %s for %s: %w", addr, what, err)
}

func (s *Server) closeSockets() {
	for _, l := range []net.Listener{s.http, s.dnsTCP, s.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
	if s.dnsUDP != nil {
		_ = s.dnsUDP.Close()
	}
}

// Addr returns the address of HTTP, nil if there is none.
func (s *Server) Addr() net.Addr { return addrOrNil(s.http) }

// URL returns where HTTP is served, empty if it is not.
func (s *Server) URL() string {
	switch {
	case s.http == nil:
		return ""
	case s.tls != nil:
		return "https://" + s.http.Addr().String()
	default:
		return "http://" + s.http.Addr().String()
	}
}

// DNSAddr returns the address of DNS, by UDP and TCP, nil if there is none.
func (s *Server) DNSAddr() net.Addr { return addrOrNil(s.dnsTCP) }

// MetricsAddr returns the address of the metrics, nil if there is none.
func (s *Server) MetricsAddr() net.Addr { return addrOrNil(s.metrics) }

func addrOrNil(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}

// Close closes what Listen bound, and the store. Run does it too.
func (s *Server) Close() error {
	s.stop()
	s.closeSockets()
	if s.elsewhere != nil {
		s.elsewhere.close()
	}
	return s.store.Close()
}

// Run serves until ctx ends and returns nil when all that it started is gone.
func (s *Server) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	group, ctx := errgroup.WithContext(ctx)
	if s.http != nil {
		group.Go(func() error { return s.serveHTTP(ctx) })
	}
	if s.dnsTCP != nil {
		group.Go(func() error {
			return serveDNS(ctx, &dns.Server{
				PacketConn: s.dnsUDP, Handler: s.dnsHandler(ctx, true), UDPSize: dns.MinMsgSize,
			})
		})
		group.Go(func() error {
			return serveDNS(ctx, &dns.Server{
				Listener: s.conns(s.dnsTCP), Handler: s.dnsHandler(ctx, false),
				IdleTimeout: func() time.Duration { return tcpIdle }, ReadTimeout: tcpIdle, WriteTimeout: tcpIdle, MaxTCPQueries: maxTCPQueries,
			})
		})
	}
	if s.acme != nil {
		group.Go(func() error { webserver.Fetch(ctx, s.acme, s.cfg.ACME.Hosts, s.log); return nil })
		defer context.AfterFunc(ctx, s.stop)()
	}
	if s.metrics != nil {
		group.Go(func() error {
			return metrics.Serve(ctx, s.metrics, metrics.Options{Gather: s.Metrics, Profiles: s.cfg.Profiles})
		})
	}
	group.Go(func() error { return s.evict(ctx) })
	return group.Wait()
}

func (s *Server) serveHTTP(ctx context.Context) error {
	server := s.httpServer()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		// What was taken is answered.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
	serve := server.Serve
	if server.TLSConfig = s.tls; s.tls != nil {
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	err := serve(s.cfg.TrustedProxies.Listener(s.conns(s.http)))
	if stop() {
		return fmt.Errorf("discovery: %w", err)
	}
	<-ended
	return nil
}

func serveDNS(ctx context.Context, server *dns.Server) error {
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	select {
	case err := <-done:
		return fmt.Errorf("discovery: DNS: %w", err)
	case <-ctx.Done():
	}
	select {
	case <-started:
		_ = server.Shutdown()
	case <-done:
		return nil
	}
	<-done
	return nil
}

// evictEvery is how often packets are looked for that nobody put again.
const evictEvery = time.Hour

func (s *Server) evict(ctx context.Context) error {
	tick := time.NewTicker(evictEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		n, err := s.store.Evict(ctx, time.Now().Add(-s.cfg.Keep))
		s.count.evicted.Add(uint64(n))
		if err != nil && ctx.Err() == nil {
			s.storeErr(err)
		}
	}
}

// storeErr logs what is wrong with the store, not more often than every ten seconds.
func (s *Server) storeErr(err error) {
	now, last := time.Now().Unix(), s.told.Load()
	if now-last >= 10 && s.told.CompareAndSwap(last, now) {
		s.log.Error("the store is out of order", "err", err)
	}
}
