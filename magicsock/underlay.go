package magicsock

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/internal/netmon"
	"github.com/nodetun/nodetun/magicsock/portmap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// Socket is one UDP socket of one IP version, as *udpconn.Conn is; see there
// what each method promises.
type Socket interface {
	Read(ms []udpconn.Message) (int, error)
	TryRead(ms []udpconn.Message) (int, error)
	Write(b []byte, seg int, ecn uint8, to netip.AddrPort) error
	LocalAddr() netip.AddrPort
	Is6() bool
	SetReadDeadline(t time.Time) error
	SyscallConn() (syscall.RawConn, error)
	Rebind() error
	Unbound() error
	SetSource(to netip.AddrPort, from netip.Addr)
	Stats() udpconn.Stats
	Close() error
}

// Monitor tells of changes of the network, as *netmon.Monitor does.
type Monitor interface {
	Run(ctx context.Context) error
	Changed() <-chan netmon.Event
	Interfaces() ([]netmon.Interface, error)
	AllInterfaces() ([]netmon.Interface, error)
	LeftOut() ([]netmon.LeftOut, error)
	Gateway() (netmon.Gateway, bool)
	Tunnelled(remote netip.Addr) bool
	MustName(remote, local netip.Addr, link int) bool
	Close() error
}

// Underlay is the network below a Conn. Tests put one in memory in its place.
type Underlay struct {
	// Open binds the sockets of a node, IPv4 first, at most one of each version.
	Open func(udpconn.Config) ([]Socket, error)
	// OpenExtra binds one more socket to a free port of all addresses.
	OpenExtra func(cfg udpconn.Config, is6 bool) (Socket, error)
	// Monitor belongs to the Conn, which closes it.
	Monitor Monitor
	// DialTCP connects to relays and to the web servers that netcheck asks.
	DialTCP func(ctx context.Context, network, address string) (net.Conn, error)
	// ListenUDP opens the sockets of port mapping; nil where that is not to be.
	ListenUDP func(local netip.AddrPort) (portmap.PacketConn, error)
	// Lookup resolves the names of relays and STUN servers.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

var (
	_ Socket  = (*udpconn.Conn)(nil)
	_ Monitor = (*netmon.Monitor)(nil)
)

// systemUnderlay is that of the host.
func systemUnderlay(exclude func(string) bool, mark uint32, log *slog.Logger) (*Underlay, error) {
	monitor, err := netmon.New(netmon.Config{Exclude: exclude, Mark: mark, Logger: log})
	if err != nil {
		return nil, err
	}
	return &Underlay{Open: openSockets, OpenExtra: openExtra, Monitor: monitor}, nil
}

func openSockets(cfg udpconn.Config) ([]Socket, error) {
	pair, err := udpconn.Open(cfg)
	if err != nil {
		return nil, err
	}
	var list []Socket
	for _, s := range pair.Conns() {
		list = append(list, s)
	}
	return list, nil
}

func openExtra(cfg udpconn.Config, is6 bool) (Socket, error) {
	cfg.Bind4 = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	cfg.Bind6 = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	return udpconn.OpenOne(cfg, is6)
}

// sockets are those of a node, IPv4 first; at least one.
type sockets []Socket

// reach returns the socket that reaches addr: nil if its IP version is missing.
func (s sockets) reach(addr netip.Addr) Socket {
	is6 := addr.Is6() && !addr.Is4In6()
	for _, one := range s {
		if one.Is6() == is6 {
			return one
		}
	}
	return nil
}

func (s sockets) rebind() error {
	var errs []error
	for _, one := range s {
		errs = append(errs, one.Rebind())
	}
	return errors.Join(errs...)
}

func (s sockets) close() error {
	var errs []error
	for _, one := range s {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
