package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/routing"
)

const (
	// checkWait is how long a packet to ourselves may take, of which there are
	// checkTries.
	checkWait  = 200 * time.Millisecond
	checkTries = 2
	// checkGap is how long a result holds for who asks again, checkSettle how long
	// several changes of the host are taken for one, and checkPause the time between
	// two looks on a host that changes all the time.
	checkGap    = time.Second
	checkSettle = 500 * time.Millisecond
	checkPause  = 5 * time.Second
)

// watchTunnel looks after changes of the host whether the tunnel still carries packets.
func (d *Daemon) watchTunnel(ctx context.Context) error {
	next := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.hostChanged:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(checkSettle, time.Until(next))):
		}
		select {
		case <-d.hostChanged: // seen by the look that follows
		default:
		}
		d.checkTunnel(0)
		next = time.Now().Add(checkPause)
	}
}

// checkTunnel sends a packet through the TUN to ourselves, by each IP version, unless
// that was done within gap, and notes what keeps it from coming back.
func (d *Daemon) checkTunnel(gap time.Duration) {
	d.selfCheck.Lock()
	defer d.selfCheck.Unlock()
	if !d.selfChecked.IsZero() && time.Since(d.selfChecked) < gap {
		return
	}
	for _, prefix := range d.prefixes() {
		version := "IPv6"
		if prefix.Addr().Is4() {
			version = "IPv4"
		}
		if cause, fix := d.throughTunnel(prefix); cause != "" {
			if d.troubles.set(version, version+" does not work in the tunnel: "+cause, fix) {
				d.log.Warn(version+" does not work in the tunnel", "because", cause, "help", fix)
			}
		} else if d.troubles.clear(version) {
			d.log.Info(version + " works in the tunnel again")
		}
	}
	d.selfChecked = time.Now()
}

// throughTunnel sends a packet to the mirror of a prefix; the cause is empty when it
// comes back, or when there is no address to send it from, which is told elsewhere.
func (d *Daemon) throughTunnel(prefix netip.Prefix) (cause, fix string) {
	self, mirror := d.table.Self().V6, routing.Mirror(prefix)
	if prefix.Addr().Is4() {
		self = d.table.Self().V4
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(self, 0)))
	if err != nil {
		return "", ""
	}
	defer conn.Close()
	const discard = 9 // nobody listens there, if the packet leaves elsewhere
	inside := d.engine.Reflected()
	var sendErr error
	for range checkTries {
		token, buf := make([]byte, 16), make([]byte, 64)
		_, _ = rand.Read(token)
		if _, sendErr = conn.WriteToUDPAddrPort(token, netip.AddrPortFrom(mirror, discard)); sendErr != nil {
			break
		}
		_ = conn.SetReadDeadline(time.Now().Add(checkWait))
		for {
			n, _, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				break
			}
			if bytes.Equal(buf[:n], token) {
				return "", ""
			}
		}
	}
	link := d.link.Name()
	switch by := routing.LinkTo(mirror); {
	case by != "" && by != link:
		return fmt.Sprintf("packets for %s leave by %s instead of %s", prefix, by, link),
			fmt.Sprintf("see `ip rule` and `ip route get %s`", mirror)
	case sendErr != nil && !errors.Is(sendErr, syscall.EPERM):
		return sendErr.Error(), fmt.Sprintf("see `ip route get %s`", mirror)
	case d.engine.Reflected() == inside:
		return fmt.Sprintf("a firewall of this host drops what goes out by %s", link), "see `nft list ruleset`, or `iptables-save`"
	case carrierSpace.Overlaps(prefix):
		return fmt.Sprintf("a firewall of this host drops what comes in by %s from %s, as Tailscale's rules do", link, prefix),
			"remove ipv4_pool from nodetun.toml, or set another one, and restart nodetun"
	default:
		return fmt.Sprintf("a firewall of this host drops what comes in by %s from %s", link, prefix), "see `nft list ruleset`, or `iptables-save`"
	}
}

// carrierSpace is the shared address space of RFC 6598, which Tailscale keeps for itself.
var carrierSpace = netip.MustParsePrefix("100.64.0.0/10")
