package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
)

// Config says how an Endpoint works. Socket.Key is required.
type Config struct {
	// Socket configures the packet socket and holds the identity.
	Socket magicsock.Config
	// ALPNs are the protocols that Accept takes; none: nothing is accepted.
	ALPNs []string
	// SessionALPNs are protocols whose connections outlive outages: dialled
	// ones use IdleTimeout and send nothing while idle. Connections of all
	// other protocols are dialled with 30 s and a keep-alive of 1 s, as
	// iroh-net does.
	SessionALPNs []string
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
	handshakeIdle  = 5 * time.Second
	initialPacket  = 1200 // what every path must take (RFC 9000 14)
	maxStreams     = 4096
	initialStream  = 1 << 20 // bytes of window
	maxStreamWin   = 8 << 20
	connectionWin  = 1 << 30 // nominal: the streams bound it
	closeGrace     = 50 * time.Millisecond
)

// Endpoint is this node's end of QUIC.
type Endpoint struct {
	cfg       Config
	socket    *magicsock.Conn
	transport *quic.Transport
	log       *slog.Logger

	// ready is closed when Run has set up listener; closed when it ends.
	ready, closed chan struct{}
	listener      *quic.Listener

	// mu guards the fields below.
	mu       sync.Mutex
	conns    map[*quic.Conn]struct{}
	stopping bool
	code     uint64
	reason   string
	stop     context.CancelFunc
}

// New binds the socket. It starts nothing; what it made is released by Run.
func New(cfg Config) (*Endpoint, error) {
	if cfg.Socket.Key == nil {
		return nil, errors.New("endpoint: a secret key is required")
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
	socket, err := magicsock.New(cfg.Socket)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{
		cfg: cfg, socket: socket, log: cfg.Logger,
		ready: make(chan struct{}), closed: make(chan struct{}),
		conns: make(map[*quic.Conn]struct{}), stop: func() {},
	}
	e.transport = &quic.Transport{Conn: socket.PacketConn(), ConnectionIDGenerator: connIDs{}}
	if len(cfg.ResetSalt) > 0 {
		key := quic.StatelessResetKey(cfg.Socket.Key.ResetKey(cfg.ResetSalt))
		e.transport.StatelessResetKey = &key
	}
	return e, nil
}

// Run works until ctx ends or Close is called. Before it returns every
// connection is closed and everything it started is gone. It may be called
// once.
func (e *Endpoint) Run(ctx context.Context) error {
	defer close(e.closed)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	e.mu.Lock()
	e.stop = stop
	if e.stopping {
		stop()
	}
	e.mu.Unlock()

	socketCtx, stopSocket := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSocket()
	socketDone := make(chan error, 1)
	go func() { socketDone <- e.socket.Run(socketCtx) }()

	err := e.listen()
	if err == nil {
		close(e.ready)
		select {
		case <-ctx.Done():
		case err = <-socketDone:
			socketDone <- err
		}
	}
	e.closeAll()
	stopSocket()
	return errors.Join(err, <-socketDone)
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
	listener, err := e.transport.Listen(conf, e.quicConfig(true))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	e.listener = listener
	return nil
}

// quicConfig returns the settings of connections; session: those that outlive
// outages.
func (e *Endpoint) quicConfig(session bool) *quic.Config {
	conf := &quic.Config{
		HandshakeIdleTimeout:           handshakeIdle,
		MaxIdleTimeout:                 e.cfg.IdleTimeout,
		InitialStreamReceiveWindow:     initialStream,
		MaxStreamReceiveWindow:         maxStreamWin,
		InitialConnectionReceiveWindow: connectionWin,
		MaxConnectionReceiveWindow:     connectionWin,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          maxStreams,
		InitialPacketSize:              initialPacket,
		EnableDatagrams:                true,
	}
	if !session {
		conf.MaxIdleTimeout, conf.KeepAlivePeriod = min(shortIdle, e.cfg.IdleTimeout), shortKeepAlive
	}
	return conf
}

// closeAll closes every connection and the transport.
func (e *Endpoint) closeAll() {
	e.mu.Lock()
	e.stopping = true
	conns := make([]*quic.Conn, 0, len(e.conns))
	for conn := range e.conns {
		conns = append(conns, conn)
	}
	code, reason := e.code, e.reason
	e.mu.Unlock()
	var closing sync.WaitGroup
	for _, conn := range conns {
		closing.Go(func() { _ = conn.CloseWithError(quic.ApplicationErrorCode(code), reason) })
	}
	closing.Wait()
	if len(conns) > 0 {
		// The last packets are still on their way through the socket.
		time.Sleep(closeGrace)
	}
	if e.listener != nil {
		_ = e.listener.Close()
	}
	_ = e.transport.Close()
}

// Close ends Run; every connection is closed with code and reason. It does not
// wait: Run's return says when all is done.
func (e *Endpoint) Close(code uint64, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stopping {
		e.stopping, e.code, e.reason = true, code, reason
		e.stop()
	}
}

// NodeID returns this node's id.
func (e *Endpoint) NodeID() identity.NodeID { return e.cfg.Socket.Key.NodeID() }

// Socket returns the packet socket, which knows paths and addresses.
func (e *Endpoint) Socket() *magicsock.Conn { return e.socket }

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
	case <-e.ready:
		return nil
	case <-e.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Connect dials the node of addr and agrees on the protocol. Addresses in addr
// are added to what is known; with none at all a Resolver must find some. The
// error wraps ErrSelf, ErrNoAddress, ErrWrongNode, ErrALPN, ErrRawPublicKeys,
// ErrClosed or the context's error, or is one that Cause explains.
//
// With TLS 1.3 the dialler is done before the other side has checked it: a
// refusal may come as the first error of the connection.
func (e *Endpoint) Connect(ctx context.Context, addr identity.NodeAddr, alpn string) (*Connection, error) {
	if addr.ID == e.NodeID() {
		return nil, ErrSelf
	}
	if err := e.awaitReady(ctx); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	stopResolving, err := e.locate(ctx, addr)
	defer stopResolving()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conf, err := tlsConfig(e.cfg.Socket.Key, []string{alpn}, addr.ID, e.cfg.KeyLog)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	session := slices.Contains(e.cfg.SessionALPNs, alpn)
	conn, err := e.transport.Dial(ctx, e.socket.MappedAddr(addr.ID), conf, e.quicConfig(session))
	if err != nil {
		return nil, dialError(ctx, err)
	}
	return e.adopt(conn, true)
}

// adopt wraps a connection whose handshake is complete.
func (e *Endpoint) adopt(conn *quic.Conn, dialler bool) (*Connection, error) {
	id, err := peerID(conn.ConnectionState().TLS)
	if err != nil {
		_ = conn.CloseWithError(0, "")
		return nil, err
	}
	e.mu.Lock()
	if e.stopping {
		e.mu.Unlock()
		_ = conn.CloseWithError(0, "")
		return nil, ErrClosed
	}
	e.conns[conn] = struct{}{}
	e.mu.Unlock()
	context.AfterFunc(conn.Context(), func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.conns, conn)
	})
	e.socket.Established(id)
	return &Connection{quic: conn, socket: e.socket, remote: id, dialler: dialler}, nil
}

// locate makes sure that the socket knows an address of the node. With a
// Resolver it goes on looking beside the dial until stop is called.
func (e *Endpoint) locate(ctx context.Context, addr identity.NodeAddr) (stop func(), err error) {
	known := e.knows(addr.ID)
	if !addr.IsEmpty() {
		err := e.socket.AddNodeAddr(addr, "app")
		if err != nil && !known {
			return func() {}, fmt.Errorf("%w: %w", ErrNoAddress, err)
		}
		known = known || err == nil
	}
	if e.cfg.Resolver == nil {
		if !known {
			return func() {}, ErrNoAddress
		}
		return func() {}, nil
	}
	return e.resolve(ctx, addr.ID, known)
}

// knows reports whether the socket has an address or a relay of the node.
func (e *Endpoint) knows(id identity.NodeID) bool {
	info, ok := e.socket.Remote(id)
	return ok && (len(info.Addrs) > 0 || !info.RelayInfo.URL.IsZero())
}

// resolve asks the Resolver; if nothing is known yet it waits for the first
// answer.
func (e *Endpoint) resolve(ctx context.Context, id identity.NodeID, known bool) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	first, done := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		done <- e.cfg.Resolver.Resolve(ctx, id, func(item discovery.Item) {
			item.Addr.ID = id
			if e.socket.AddNodeAddr(item.Addr, item.Source) == nil {
				once.Do(func() { close(first) })
			}
		})
	}()
	finished := false
	stop = func() {
		cancel()
		if !finished {
			<-done
		}
	}
	if known {
		return stop, nil
	}
	select {
	case <-first:
		return stop, nil
	case err = <-done:
		finished = true
		select {
		case <-first:
			return stop, nil
		default:
			return stop, errors.Join(fmt.Errorf("%w: discovery found nothing", ErrNoAddress), err)
		}
	case <-ctx.Done():
		return stop, ctx.Err()
	}
}

// Accept waits for the next connection of a node that is admitted. The error
// wraps ErrClosed or the context's error.
func (e *Endpoint) Accept(ctx context.Context) (*Connection, error) {
	if err := e.awaitReady(ctx); err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	if e.listener == nil {
		<-ctx.Done()
		return nil, fmt.Errorf("accept: %w", ctx.Err())
	}
	for {
		conn, err := e.listener.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("accept: %w", ctx.Err())
			}
			return nil, fmt.Errorf("accept: %w", ErrClosed)
		}
		c, err := e.adopt(conn, false)
		if err != nil {
			continue
		}
		if admit := e.cfg.Socket.Admit; admit != nil && !admit(c.remote) {
			c.Close(1, "not authorised")
			continue
		}
		return c, nil
	}
}

// LocalAddrs returns the bound UDP addresses.
func (e *Endpoint) LocalAddrs() (v4, v6 netip.AddrPort) { return e.socket.LocalAddrs() }
