package relayactor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Limits of relays that were not configured (S10).
const (
	maxForeign      = 8
	foreignInterval = time.Second
	maxForeignURL   = 255
)

// ErrForeign is the reason why a relay that was not configured is not dialled.
var ErrForeign = errors.New("foreign relay not allowed")

// foreignLimit is when the last foreign link was made.
type foreignLimit struct{ last time.Time }

// mayDialLocked applies S10 to a new link.
func (a *Actor) mayDialLocked(url identity.RelayURL, now time.Time) error {
	if err := checkForeignURL(url); err != nil {
		return err
	}
	n := 0
	for _, l := range a.links {
		if l.foreign {
			n++
		}
	}
	if n >= maxForeign {
		return fmt.Errorf("%w: %d are in use", ErrForeign, n)
	}
	if !a.foreign.last.IsZero() && now.Sub(a.foreign.last) < foreignInterval {
		return fmt.Errorf("%w: too soon after the last", ErrForeign)
	}
	a.foreign.last = now
	return nil
}

// checkForeignURL judges what can be judged without asking the DNS.
func checkForeignURL(url identity.RelayURL) error {
	if len(url.String()) > maxForeignURL {
		return fmt.Errorf("%w: its URL is too long", ErrForeign)
	}
	u := url.Parsed()
	switch {
	case u.Scheme != "https":
		return fmt.Errorf("%w: it is not https", ErrForeign)
	case u.User != nil:
		return fmt.Errorf("%w: its URL holds a user", ErrForeign)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("%w: its URL holds a query", ErrForeign)
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return fmt.Errorf("%w: it is this host", ErrForeign)
	}
	return nil
}

// control returns what judges a socket before it connects, when the name is
// resolved: a name of a stranger's may lead anywhere.
func (a *Actor) control(foreign bool) func(network, address string, c syscall.RawConn) error {
	if !foreign {
		return a.cfg.Control
	}
	return func(network, address string, c syscall.RawConn) error {
		if err := a.checkForeignAddr(address); err != nil {
			return err
		}
		if a.cfg.Control != nil {
			return a.cfg.Control(network, address, c)
		}
		return nil
	}
}

func (a *Actor) checkForeignAddr(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	ip := ap.Addr().Unmap().WithZone("")
	if !ip.IsGlobalUnicast() || slices.ContainsFunc(a.cfg.TunPrefixes, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("%w: its address is not outside", ErrForeign)
	}
	return nil
}
