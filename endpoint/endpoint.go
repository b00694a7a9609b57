package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// Config says how an Endpoint works. Socket.Key is required.
type Config struct {
	// Socket configures the packet socket and holds the identity. Its Discover
	// and Logger, if nil, are set from Resolver and Logger below, and its DNS is a
	// discovery/dns.Client for the servers of this host.
	Socket magicsock.Config
	// ALPNs are the protocols that Accept takes; none: nothing is accepted, and
	// nodes that dial get no answer.
	ALPNs []string
	// SessionALPNs are protocols whose connections outlive outages: dialled
	// ones use IdleTimeout and send nothing while idle. Connections of all
	// other protocols are dialled with 30 s and a keep-alive of 1 s, as
	// iroh-net does.
	SessionALPNs []string
	// Welcomes says that the application calls Connection.Welcome when it takes what
	// Accept returned. Until then a connection counts among the handshakes that others
	// began, of which there are at most 4 of a node and 64 in all (S6), and a node begins
	// no more than one a second. False: Accept does it, and there is no such pace.
	Welcomes bool
	// IdleTimeout ends a connection from which nothing came. The smaller one of
	// both sides counts. Zero: 12 h.
	IdleTimeout time.Duration
	// ResetSalt, with the identity, makes the key of stateless resets (S4): 32
	// random bytes that are kept over restarts. Empty: no resets are sent.
	ResetSalt []byte
	// Resolver finds nodes of which no address was given. Nil: none.
	Resolver discovery.Resolver
	// KeyLog gets TLS secrets, for debugging. Nil: nobody does.
	KeyLog io.Writer
	// Logger defaults to discarding.
	Logger *slog.Logger
}

// Settings of QUIC.
const (
	defaultIdle    = 12 * time.Hour
	shortIdle      = 30 * time.Second // of iroh-net
	shortKeepAlive = time.Second
	handshakeIdle  = 5 * time.Second // silence that ends a dial; it takes twice that at most
	initialPacket  = 1200            // what every path must take (RFC 9000 14)
	maxStreams     = 1152            // 1024 flows, and what asks something
	maxUniStreams  = 100
	initialStream  = 256 << 10 // bytes of window
	maxStreamWin   = 8 << 20
	// connectionWin holds 192 streams that nobody reads and still has room for those that
	// somebody does. It is that large from the start, since QUIC enlarges it no more once
	// most of it is held up.
	connectionWin = 64 << 20
	// closeGrace is how long Run goes on carrying packets after the last
	// connection was closed: its CONNECTION_CLOSE is still in the queues of the
	// socket or of a relay.
	closeGrace = 50 * time.Millisecond
)

// Endpoint is this node's end of QUIC. Make it with New.
type Endpoint struct {
	cfg       Config
	socket    *magicsock.Conn
	transport *quic.Transport
	marked    *quic.Transport // the second path to every node, for renewals
	resets    *resetGuard
	pending   handshakes
	renewals  sync.WaitGroup // of connections, begun under mu before stopping
	lookups   lookups
	log       *slog.Logger

	// tls is that of connections to come; nil before Run.
	tls atomic.Pointer[tls.Config]

	// broken has the reason when a transport ended by itself.
	broken chan error

	// ready is closed when Run has set up listener; closed when it ends.
	ready, closed chan struct{}
	listener      *quic.Listener

	// mu guards the fields below.
	mu       sync.Mutex
	conns    map[*quic.Conn]*Connection
	running  bool
	stopping bool
	code     uint64
	reason   string
	stop     context.CancelFunc // of Run's context
}

// New binds the socket and starts nothing. Run makes it work and releases what
// New made; an Endpoint that is never run is released by Close.
func New(cfg Config) (*Endpoint, error) {
	if cfg.Socket.Key == nil {
		return nil, errors.New("endpoint: a secret key is required")
	}
	if slices.Contains(cfg.ALPNs, "") {
		return nil, errors.New("endpoint: an empty ALPN")
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = defaultIdle
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Socket.Logger == nil {
		cfg.Socket.Logger = cfg.Logger
	}
	if cfg.Socket.DNS == nil {
		names := dns.Client{Control: udpconn.MarkControl(cfg.Socket.Fwmark, cfg.Logger)}
		cfg.Socket.DNS = names.Resolver()
	}
	cfg.ALPNs = slices.Clone(cfg.ALPNs)
	cfg.SessionALPNs = slices.Clone(cfg.SessionALPNs)
	e := &Endpoint{
		log:    cfg.Logger,
		broken: make(chan error, 1),
		ready:  make(chan struct{}), closed: make(chan struct{}),
		conns: make(map[*quic.Conn]*Connection), stop: func() {},
	}
	if cfg.Resolver != nil && cfg.Socket.Discover == nil {
		cfg.Socket.Discover = e.rediscover
	}
	told := cfg.Socket.OnRevived
	cfg.Socket.OnRevived = func(id identity.NodeID) {
		e.renew(id)
		if told != nil {
			told(id)
		}
	}
	e.cfg = cfg
	socket, err := magicsock.New(cfg.Socket)
	if err != nil {
		return nil, err
	}
	e.socket = socket
	e.pending.paced = cfg.Welcomes
	e.resets = &resetGuard{PacketConn: socket.PacketConn()}
	e.transport = &quic.Transport{
		Conn: e.resets, ConnectionIDGenerator: connIDs{}, ConnContext: e.handshakeBegins,
		VerifySourceAddress: e.mustProve,
	}
	e.marked = &quic.Transport{Conn: socket.MarkedConn(), ConnectionIDGenerator: connIDs{}}
	if len(cfg.ResetSalt) > 0 {
		key := quic.StatelessResetKey(cfg.Socket.Key.ResetKey(cfg.ResetSalt))
		e.transport.StatelessResetKey = &key
	}
	return e, nil
}

// IdleTimeout is after how much silence this side ends a connection of a session protocol.
func (e *Endpoint) IdleTimeout() time.Duration { return e.cfg.IdleTimeout }

// Run works until ctx ends or Close is called, or the socket or QUIC stops, which is
// an error. Before it returns every
// connection is closed and everything it started is gone. It may be called
// once.
func (e *Endpoint) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := e.begin(stop); err != nil {
		return err
	}
	defer close(e.closed)
	defer e.lookups.end()

	socketCtx, stopSocket := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSocket()
	socketDone := make(chan struct{})
	var socketErr error
	go func() {
		defer close(socketDone)
		socketErr = e.socket.Run(socketCtx)
	}()

	err := e.listen()
	if err == nil {
		e.lookups.begin(ctx)
		close(e.ready)
		select {
		case <-ctx.Done():
		case <-socketDone:
			err = errors.New("endpoint: the socket stopped")
		case cause := <-e.broken:
			err = fmt.Errorf("endpoint: QUIC stopped: %w", cause)
		}
	}
	e.closeAll(socketDone)
	stopSocket()
	<-socketDone
	return errors.Join(err, socketErr)
}

// transportEnded is called by whoever meets a transport that has ended: if nobody
// closed it no connection can come up any more, and Run ends too.
func (e *Endpoint) transportEnded(cause error) {
	select {
	case e.broken <- cause:
	default:
	}
}

// begin notes that Run was called.
func (e *Endpoint) begin(stop context.CancelFunc) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.running:
		return errors.New("endpoint: Run was called before")
	case e.stopping:
		return ErrClosed
	}
	e.running, e.stop = true, stop
	return nil
}

// listen begins to take connections.
func (e *Endpoint) listen() error {
	if len(e.cfg.ALPNs) == 0 {
		return nil
	}
	conf, err := tlsConfig(e.cfg.Socket.Key, e.cfg.ALPNs, identity.NodeID{}, e.cfg.KeyLog)
	if err != nil {
		return err
	}
	first := conf.Clone()
	e.tls.CompareAndSwap(nil, first) // SetALPNs may have been before
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return e.tls.Load(), nil }
	listener, err := e.transport.Listen(conf, e.quicConfig(true))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	e.listener = listener
	return nil
}

// quicConfig returns the settings of connections; session: those that outlive
// outages. A listener has the settings of a session for all protocols, because
// they apply before the protocol is known: the dialler's lower idle timeout and
// its keep-alive decide for the others.
func (e *Endpoint) quicConfig(session bool) *quic.Config {
	conf := &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           handshakeIdle,
		MaxIdleTimeout:                 e.cfg.IdleTimeout,
		InitialStreamReceiveWindow:     initialStream,
		MaxStreamReceiveWindow:         maxStreamWin,
		InitialConnectionReceiveWindow: connectionWin,
		MaxConnectionReceiveWindow:     connectionWin,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          maxUniStreams,
		InitialPacketSize:              initialPacket,
		EnableDatagrams:                true,
		// RESET_STREAM_AT (draft-ietf-quic-reliable-stream-reset): what was written
		// before a reset can be made to arrive before it.
		EnableStreamResetPartialDelivery: true,
	}
	if !session {
		conf.MaxIdleTimeout, conf.KeepAlivePeriod = min(shortIdle, e.cfg.IdleTimeout), shortKeepAlive
	}
	return conf
}

// SetALPNs replaces the protocols that Accept takes, for connections to come. An
// endpoint that was made with none accepts none; then it returns an error.
func (e *Endpoint) SetALPNs(alpns ...string) error {
	if len(e.cfg.ALPNs) == 0 || len(alpns) == 0 || slices.Contains(alpns, "") {
		return errors.New("endpoint: an endpoint that accepts has protocols, with names, from the start")
	}
	conf, err := tlsConfig(e.cfg.Socket.Key, alpns, identity.NodeID{}, e.cfg.KeyLog)
	if err != nil {
		return err
	}
	e.tls.Store(conf)
	return nil
}

// closeAll closes every connection and the transports.
func (e *Endpoint) closeAll(socketDone <-chan struct{}) {
	e.mu.Lock()
	e.stopping = true
	conns := make([]*quic.Conn, 0, len(e.conns))
	for conn := range e.conns {
		conns = append(conns, conn)
	}
	code, reason := e.code, e.reason
	e.mu.Unlock()

	if e.listener != nil {
		_ = e.listener.Close()
		conns = append(conns, e.unaccepted()...)
	}
	var closing sync.WaitGroup
	for _, conn := range conns {
		closing.Go(func() { _ = conn.CloseWithError(quic.ApplicationErrorCode(code), reason) })
	}
	closing.Wait()
	if len(conns) > 0 {
		select {
		case <-time.After(closeGrace):
		case <-socketDone:
		}
	}
	_ = e.transport.Close()
	_ = e.marked.Close()
	e.renewals.Wait()
}

// unaccepted returns the connections that came up and were never taken by
// Accept; the listener is closed.
func (e *Endpoint) unaccepted() []*quic.Conn {
	var conns []*quic.Conn
	for {
		conn, err := e.listener.Accept(context.Background()) // a closed listener does not wait
		if err != nil {
			return conns
		}
		conns = append(conns, conn)
	}
}

// Close ends Run; every connection is closed with code and reason. It does not
// wait: Run's return says when all is done. Without a Run it releases the
// socket.
func (e *Endpoint) Close(code uint64, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopping {
		return
	}
	e.stopping, e.code, e.reason = true, code, reason
	e.stop()
	if !e.running {
		close(e.closed)
		_ = e.socket.Close()
	}
}

// NodeID returns this node's id.
func (e *Endpoint) NodeID() identity.NodeID { return e.cfg.Socket.Key.NodeID() }

// Socket returns the packet socket, which knows paths and addresses.
func (e *Endpoint) Socket() *magicsock.Conn { return e.socket }

// Resolves reports whether there is a Resolver.
func (e *Endpoint) Resolves() bool { return e.cfg.Resolver != nil }

// LocalAddrs returns the bound UDP addresses; zero for a family that is missing.
func (e *Endpoint) LocalAddrs() (v4, v6 netip.AddrPort) { return e.socket.LocalAddrs() }

// NodeAddr returns where this node may be found now.
func (e *Endpoint) NodeAddr() identity.NodeAddr {
	addr := identity.NodeAddr{ID: e.NodeID(), Relay: e.socket.HomeRelay()}
	for _, direct := range e.socket.DirectAddrs() {
		addr.Direct = append(addr.Direct, direct.Addr)
	}
	return addr
}

// awaitReady waits until Run works.
func (e *Endpoint) awaitReady(ctx context.Context) error {
	select {
	case <-e.closed:
		return ErrClosed
	default:
	}
	select {
	case <-e.ready:
		return nil
	case <-e.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// adopt wraps a connection whose handshake is complete; id is what it proved.
func (e *Endpoint) adopt(conn *quic.Conn, id identity.NodeID, dialler bool) (*Connection, error) {
	state := conn.ConnectionState()
	e.mu.Lock()
	if e.stopping {
		e.mu.Unlock()
		_ = conn.CloseWithError(0, "")
		return nil, ErrClosed
	}
	alpn := state.TLS.NegotiatedProtocol
	c := &Connection{
		quic: conn, socket: e.socket, remote: id, dialler: dialler, alpn: alpn,
		session: slices.Contains(e.cfg.SessionALPNs, alpn),
	}
	e.conns[conn] = c
	e.mu.Unlock()
	if mapped := e.socket.MappedAddr(id).AddrPort().Addr(); !state.GSO {
		e.resets.plain.add(mapped, 1)
		context.AfterFunc(conn.Context(), func() { e.resets.plain.add(mapped, -1) })
	}
	context.AfterFunc(conn.Context(), func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.conns, conn)
	})
	e.socket.Established(id)
	return c, nil
}
