package udpconn

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"syscall"
)

// ErrPortInUse is wrapped by the error of Open when the port that was asked
// for is taken.
var ErrPortInUse = errors.New("the UDP port is in use by another program")

// ErrOff stands for the socket of a family that was not asked for.
var ErrOff = errors.New("only the other family was asked for")

// BufferSize is what is asked of the kernel for each direction of each socket:
// the figure that iroh-net and quic-go use.
const BufferSize = 7 << 20

// samePortTries bounds the search for a port that is free in both families.
const samePortTries = 16

// Config says where Open binds. The zero value binds both families to all
// addresses, on one free port.
type Config struct {
	// Bind4 and Bind6 are the addresses to bind. Zero means all addresses of
	// the family, but none when the other names one address: who binds to
	// 127.0.0.1 wants nothing to listen elsewhere. If only one has a port the
	// other wants the same.
	Bind4, Bind6 netip.AddrPort
	// Mark is the firewall mark (SO_MARK) of all packets sent; 0 is none. A
	// mark that the process may not set is left out and logged.
	Mark uint32
	// Rebound is called when a socket got another file descriptor or lost its own.
	// It must not block or call back. Nil: nobody is told.
	Rebound func()
	// Logger gets what is unusual but not fatal. Nil discards it.
	Logger *slog.Logger
}

// Pair is the IPv4 and the IPv6 socket of a node. At least one of them exists.
type Pair struct {
	// V4 and V6 are nil where the family could not be bound.
	V4, V6 *Conn
	// Err4 and Err6 say why V4 or V6 is nil.
	Err4, Err6 error
}

// Open binds both sockets, to the same port if they can have it. A host
// without one of the families gets the other alone. A port that was asked for
// and is taken is an error that wraps ErrPortInUse, never replaced by another.
func Open(cfg Config) (*Pair, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	off4, off6 := alone(cfg.Bind6, cfg.Bind4), alone(cfg.Bind4, cfg.Bind6)
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	switch {
	case off4:
		v6, err := listen("udp6", cfg.Bind6, cfg)
		return &Pair{V6: v6, Err4: ErrOff}, err
	case off6:
		v4, err := listen("udp4", cfg.Bind4, cfg)
		return &Pair{V4: v4, Err6: ErrOff}, err
	}
	if cfg.Bind4.Port() != 0 {
		return cfg.open()
	}
	for range samePortTries - 1 {
		p, err := cfg.openSamePort()
		if !errors.Is(err, ErrPortInUse) {
			return p, err
		}
	}
	return cfg.open()
}

// OpenOne binds one more socket of one IP version, to cfg.Bind4 or cfg.Bind6.
func OpenOne(cfg Config, is6 bool) (*Conn, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if is6 {
		return listen("udp6", cfg.Bind6, cfg)
	}
	return listen("udp4", cfg.Bind4, cfg)
}

// alone says that named is one address and the other family was not named.
func alone(named, other netip.AddrPort) bool {
	return named.Addr().IsValid() && !named.Addr().IsUnspecified() && !other.Addr().IsValid()
}

// complete fills in what the zero value leaves open.
func (cfg *Config) complete() error {
	if !cfg.Bind4.Addr().IsValid() {
		cfg.Bind4 = netip.AddrPortFrom(netip.IPv4Unspecified(), cfg.Bind4.Port())
	}
	if !cfg.Bind6.Addr().IsValid() {
		cfg.Bind6 = netip.AddrPortFrom(netip.IPv6Unspecified(), cfg.Bind6.Port())
	}
	if !cfg.Bind4.Addr().Is4() {
		return fmt.Errorf("bind %s: not an IPv4 address", cfg.Bind4)
	}
	if !cfg.Bind6.Addr().Is6() || cfg.Bind6.Addr().Is4In6() {
		return fmt.Errorf("bind %s: not an IPv6 address", cfg.Bind6)
	}
	switch {
	case cfg.Bind4.Port() == 0:
		cfg.Bind4 = netip.AddrPortFrom(cfg.Bind4.Addr(), cfg.Bind6.Port())
	case cfg.Bind6.Port() == 0:
		cfg.Bind6 = netip.AddrPortFrom(cfg.Bind6.Addr(), cfg.Bind4.Port())
	}
	return nil
}

// openSamePort takes a free port of IPv4 and asks for it in IPv6 too. The
// error wraps ErrPortInUse if another try may succeed.
func (cfg Config) openSamePort() (*Pair, error) {
	v4, err := listen("udp4", cfg.Bind4, cfg)
	if err != nil {
		return cfg.open()
	}
	bind6 := netip.AddrPortFrom(cfg.Bind6.Addr(), v4.LocalAddr().Port())
	v6, err := listen("udp6", bind6, cfg)
	if errors.Is(err, ErrPortInUse) {
		v4.Close()
		return nil, err
	}
	return cfg.pair(v4, nil, v6, err)
}

// open binds both to the ports in cfg.
func (cfg Config) open() (*Pair, error) {
	v4, err4 := listen("udp4", cfg.Bind4, cfg)
	v6, err6 := listen("udp6", cfg.Bind6, cfg)
	return cfg.pair(v4, err4, v6, err6)
}

// pair judges the two outcomes. A family that the host lacks may be missing;
// a port or an address that was asked for may not.
func (cfg Config) pair(v4 *Conn, err4 error, v6 *Conn, err6 error) (*Pair, error) {
	p := &Pair{V4: v4, V6: v6, Err4: err4, Err6: err6}
	if err := cfg.fatal(err4, err6); err != nil {
		p.Close()
		return nil, err
	}
	for _, err := range []error{err4, err6} {
		if err != nil {
			cfg.Logger.Info("udp socket missing", "err", err)
		}
	}
	return p, nil
}

func (cfg Config) fatal(err4, err6 error) error {
	switch {
	case err4 != nil && err6 != nil:
		return errors.Join(err4, err6)
	case errors.Is(err4, ErrPortInUse):
		return err4
	case errors.Is(err6, ErrPortInUse):
		return err6
	case err4 != nil && !cfg.Bind4.Addr().IsUnspecified():
		return err4
	case err6 != nil && !cfg.Bind6.Addr().IsUnspecified():
		return err6
	case err4 != nil && !errors.Is(err4, syscall.EAFNOSUPPORT) && !errors.Is(err4, syscall.EPROTONOSUPPORT):
		return err4
	}
	return nil
}

// Conns lists the sockets that exist, IPv4 first.
func (p *Pair) Conns() []*Conn {
	var list []*Conn
	for _, c := range []*Conn{p.V4, p.V6} {
		if c != nil {
			list = append(list, c)
		}
	}
	return list
}

// Rebind gives both sockets a new file descriptor, on their old ports if these
// can still be had.
func (p *Pair) Rebind() error {
	var errs []error
	for _, c := range p.Conns() {
		errs = append(errs, c.Rebind())
	}
	return errors.Join(errs...)
}

// Close closes both sockets and wakes their readers.
func (p *Pair) Close() error {
	var errs []error
	for _, c := range p.Conns() {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
