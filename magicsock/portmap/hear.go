package portmap

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/ssdp"
)

// hear gives what the router sends to a group to take, with its port, until ctx
// ends. That of others is dropped unread.
func (c *Client) hear(ctx context.Context, gw Gateway, group netip.AddrPort, take func(b []byte, port uint16)) {
	conn, err := c.listenGroup(group, gw)
	if err != nil {
		c.cfg.Logger.Debug("announcements of the router are not heard", "group", group, "err", err)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, ssdp.MaxSize)
	for ctx.Err() == nil {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			rest(ctx, errorPause)
		case from.Addr().Unmap() == gw.Addr:
			take(buf[:n], from.Port())
		}
	}
}
