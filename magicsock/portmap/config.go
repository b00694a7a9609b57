package portmap

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Gateway is the router to ask.
type Gateway struct {
	// Addr is its IPv4 address on our side.
	Addr netip.Addr
	// Self is our address that it sees. Requests are sent from there.
	Self netip.Addr
	// Interface leads there. Announcements are heard on it; empty: on the one
	// that the system prefers.
	Interface string
}

// Protocols is a set of protocols.
type Protocols uint8

// The protocols that a Client speaks.
const (
	PCP Protocols = 1 << iota
	NATPMP
	UPnP

	// All is what 0 means too.
	All = PCP | NATPMP | UPnP
)

// String names one protocol: "pcp", "nat-pmp" or "upnp".
func (p Protocols) String() string {
	switch p {
	case PCP:
		return "pcp"
	case NATPMP:
		return "nat-pmp"
	case UPnP:
		return "upnp"
	}
	return "none"
}

// Config is what New takes.
type Config struct {
	// Gateway tells the router, false for none. It is called by Run and Probe.
	Gateway func() (Gateway, bool)
	// Control is given each socket before it is bound: firewall marks. May be nil.
	Control func(network, address string, c syscall.RawConn) error
	// Protocols to speak. 0 means all.
	Protocols Protocols
	// Secret, of any length, makes the nonces of PCP the same after a restart:
	// a mapping that a crash left behind could not be taken over otherwise
	// before it expires (RFC 6887 11.3). Nil: a random one for this process.
	Secret []byte
	// Changed is called when the mapping came, changed or went. May be nil.
	Changed func()
	// Logger gets a line for each mapping, and failures at debug level. Nil
	// discards.
	Logger *slog.Logger

	// Listen opens a UDP socket at local; its port 0 is any. Nil: a real one.
	Listen func(local netip.AddrPort) (PacketConn, error)
	// ListenGroup opens a UDP socket that hears a multicast group on the
	// interface of gw. Nil: a real one, if Listen is nil too, else none.
	ListenGroup func(group netip.AddrPort, gw Gateway) (PacketConn, error)
	// DialTCP connects to the router for UPnP. Nil: a net.Dialer from gw.Self.
	DialTCP func(ctx context.Context, network, address string) (net.Conn, error)
}

// PacketConn is a UDP socket, as *net.UDPConn is one.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	SetReadDeadline(t time.Time) error
	LocalAddr() net.Addr
	Close() error
}

var _ PacketConn = (*net.UDPConn)(nil)

// Mapping is a port of the router that leads to ours.
type Mapping struct {
	// External is where others reach it.
	External netip.AddrPort
	// Private says that External is itself behind another NAT: an address of
	// RFC 1918 or of a carrier (RFC 6598). It is of use inside that network only.
	Private bool
	// Internal is our port.
	Internal uint16
	// Protocol is "pcp", "nat-pmp" or "upnp".
	Protocol string
	// Gateway is the router's address.
	Gateway netip.Addr
	// Expires is when it ends unless it is renewed, which happens long before.
	Expires time.Time
}

// Seen tells which protocols the router speaks.
type Seen struct {
	UPnP, PCP, NATPMP bool
}
