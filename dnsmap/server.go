package dnsmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/identity"
)

const (
	// maxUDP is what we read and, with EDNS, send at most by UDP: what fits
	// every path without fragments (DNS flag day 2020).
	maxUDP = 1232
	// maxTCPConns bounds the TCP connections open at one time.
	maxTCPConns = 64
	// tcpTimeout ends reads and writes of clients that stand still.
	tcpTimeout = 5 * time.Second
	// freePortTries: of a free port of UDP, TCP's twin may be taken.
	freePortTries = 8
)

// Config describes a Server.
type Config struct {
	// Listen names the addresses (ip:port) to try in this order; the first
	// that can be had is used, by UDP and TCP.
	Listen []string
	// Names holds the zone and the petnames.
	Names *Names
	// Lookup returns the overlay addresses of a node. create asks it to
	// install the mapping of a node that is not known yet; without it the
	// question is only whether the node may have a name. A zero address means
	// that the family is off. It is called concurrently and must not block.
	Lookup func(id identity.NodeID, create bool) (v6, v4 netip.Addr, ok bool)
	// Reverse returns the node that an overlay address belongs to. Called as
	// Lookup is. Nil means that there are no PTR records.
	Reverse func(netip.Addr) (identity.NodeID, bool)
	// Prefixes are the overlay prefixes: reverse names inside them are ours,
	// and a forwarded answer that points into them is dropped (S20).
	Prefixes []netip.Prefix
	// Forward lists the servers (ip or ip:port) that get the questions outside
	// our zones; empty means that those are refused. See SetForward.
	Forward []string
	// Local reports whether an address is this host's own; only such sources
	// are answered (S20). Nil asks the kernel.
	Local func(netip.Addr) bool
	// Logger; nil discards.
	Logger *slog.Logger
}

// Server answers DNS questions of this host about the overlay.
type Server struct {
	cfg     Config
	listen  []netip.AddrPort
	zone    string   // with final dot
	reverse []string // likewise
	guard   *guard
	forward *forwarder

	mu   sync.Mutex // guards the fields below
	addr netip.AddrPort
	udp  net.PacketConn
	tcp  net.Listener
}

// NewServer checks the configuration; it opens nothing.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Names == nil || cfg.Lookup == nil {
		return nil, errors.New("dnsmap: server needs Names and Lookup")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Reverse == nil {
		cfg.Reverse = func(netip.Addr) (identity.NodeID, bool) { return identity.NodeID{}, false }
	}
	if cfg.Local == nil {
		cfg.Local = newLocalAddrs().has
	}
	s := &Server{cfg: cfg, zone: cfg.Names.cfg.Zone, guard: newGuard(cfg.Local)}
	for _, text := range cfg.Listen {
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, fmt.Errorf("dnsmap: listen address: %w", err)
		}
		s.listen = append(s.listen, a)
	}
	for _, p := range cfg.Prefixes {
		s.reverse = append(s.reverse, reverseZones(p)...)
	}
	s.cfg.Prefixes = slices.Clone(cfg.Prefixes)
	s.forward = newForwarder(s.cfg.Prefixes)
	s.SetForward(cfg.Forward)
	return s, nil
}

// Listen binds the first address of Config.Listen that can be had, and returns
// it. Queries wait until Run.
func (s *Server) Listen() (netip.AddrPort, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.udp != nil {
		return s.addr, nil
	}
	errs := []error{errors.New("dnsmap: no address to listen on")}
	for _, a := range s.listen {
		err := s.bindLocked(a)
		for range freePortTries {
			if a.Port() != 0 || err == nil {
				break
			}
			err = s.bindLocked(a)
		}
		if err == nil {
			return s.addr, nil
		}
		errs = append(errs, err)
	}
	return netip.AddrPort{}, errors.Join(errs...)
}

func (s *Server) bindLocked(a netip.AddrPort) error {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
	if err != nil {
		return err
	}
	a = netip.AddrPortFrom(a.Addr(), uint16(udp.LocalAddr().(*net.UDPAddr).Port)) // port 0: the same for both
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
	if err != nil {
		udp.Close()
		return err
	}
	s.addr, s.udp, s.tcp = a, udp, tcp
	s.forward.avoid(a)
	return nil
}

// Close releases what Listen bound, for a caller that never comes to Run.
// After Run it does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.udp == nil {
		return nil
	}
	err := errors.Join(s.udp.Close(), s.tcp.Close())
	s.udp, s.tcp = nil, nil
	return err
}

// Addr returns the address that Listen bound, the zero AddrPort before.
func (s *Server) Addr() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// SetForward changes the servers for questions outside our zones; an empty
// list refuses those. Our own address is left out.
func (s *Server) SetForward(servers []string) { s.forward.set(servers) }

// Run answers until ctx ends, then returns nil. It calls Listen if nobody did.
func (s *Server) Run(ctx context.Context) error {
	if _, err := s.Listen(); err != nil {
		return err
	}
	s.mu.Lock()
	udp, tcp := s.udp, s.tcp
	s.udp, s.tcp = nil, nil // Run closes them
	s.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) { s.serve(ctx, w, req) })
	servers := []*dns.Server{
		// The library reads with a deadline, of 2 s if it is not told, and so wakes an
		// idle host.
		{PacketConn: guardedUDP{udp, s.guard}, Handler: handler, UDPSize: maxUDP, ReadTimeout: 24 * time.Hour},
		{
			Listener: newGuardedTCP(tcp, s.guard, maxTCPConns), Handler: handler,
			ReadTimeout: tcpTimeout, IdleTimeout: func() time.Duration { return tcpTimeout },
		},
	}
	var wg sync.WaitGroup
	errs := make([]error, len(servers))
	for i, srv := range servers {
		wg.Go(func() {
			errs[i] = serveUntil(ctx, srv)
			cancel()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// serveUntil runs one server and ends it, with its handlers, when ctx ends.
func serveUntil(ctx context.Context, srv *dns.Server) error {
	started := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(started) }
	done := make(chan error, 1)
	go func() { done <- srv.ActivateAndServe() }()
	select {
	case err := <-done:
		return err
	case <-started:
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	_ = srv.Shutdown() // says only that it ended by itself
	<-done
	return nil
}

// serve answers one parsed question.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, req *dns.Msg) {
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	if tcp && !s.guard.rate.allow() { // UDP was counted before it was parsed
		_ = w.Close()
		return
	}
	m := s.reply(ctx, req, tcp)
	if m == nil {
		return
	}
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Logger.Debug("dns answer not sent", "err", err)
	}
}
