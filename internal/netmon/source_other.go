//go:build !linux

package netmon

import (
	"net"
	"net/netip"
	"os"
	"time"
)

// checkInterval is how often the interfaces are compared where the system's
// own announcements are not used.
const checkInterval = 5 * time.Second

type pollSource struct {
	ticker *time.Ticker
	closed chan struct{}
}

func newSource(uint32) (source, error) {
	return &pollSource{ticker: time.NewTicker(checkInterval), closed: make(chan struct{})}, nil
}

func (s *pollSource) wait() error {
	select {
	case <-s.ticker.C:
		return nil
	case <-s.closed:
		return os.ErrClosed
	}
}

func (s *pollSource) waitClock() error {
	<-s.closed
	return os.ErrClosed
}

func (s *pollSource) tellsClock() bool { return false }

func (s *pollSource) asleep() time.Duration { return 0 }

func (s *pollSource) interfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list []Interface
	for _, i := range all {
		entry := Interface{Name: i.Name, Index: i.Index, Flags: i.Flags}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away in between
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				addr, _ := netip.AddrFromSlice(n.IP)
				ones, _ := n.Mask.Size()
				entry.Addrs = append(entry.Addrs, netip.PrefixFrom(addr.Unmap(), ones))
			}
		}
		list = append(list, entry)
	}
	return list, nil
}

func (s *pollSource) routes() ([]route, error) { return nil, nil }

func (s *pollSource) path(_, _ netip.Addr) (from netip.Addr, link int, ok bool) {
	return from, 0, false
}

func (s *pollSource) kind(int) string { return "" }

func (s *pollSource) Close() error {
	s.ticker.Stop()
	close(s.closed)
	return nil
}
