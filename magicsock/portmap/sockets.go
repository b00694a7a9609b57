package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// errNoGroup says that groups cannot be heard.
var errNoGroup = errors.New("no multicast here")

// listen opens a UDP socket.
func (c *Client) listen(local netip.AddrPort) (PacketConn, error) {
	if c.cfg.Listen != nil {
		return c.cfg.Listen(local)
	}
	lc := net.ListenConfig{Control: c.cfg.Control}
	conn, err := lc.ListenPacket(context.Background(), "udp4", local.String())
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("a %T is no UDP socket", conn)
	}
	return udp, nil
}

// listenGroup opens a UDP socket that hears a group.
func (c *Client) listenGroup(group netip.AddrPort, gw Gateway) (PacketConn, error) {
	switch {
	case c.cfg.ListenGroup != nil:
		return c.cfg.ListenGroup(group, gw)
	case c.cfg.Listen != nil:
		return nil, errNoGroup
	}
	return ListenGroup(group, gw.Self)
}

// dial connects to the router.
func (c *Client) dial(ctx context.Context, gw Gateway, network, address string) (net.Conn, error) {
	if c.cfg.DialTCP != nil {
		return c.cfg.DialTCP(ctx, network, address)
	}
	d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: gw.Self.AsSlice()}, Control: c.cfg.Control}
	return d.DialContext(ctx, network, address)
}
