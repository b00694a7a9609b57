package netmon

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// groups are the kernel's announcements that may change a path.
const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
	unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// netlinkSource holds a socket that hears announcements and one that asks.
type netlinkSource struct {
	events *os.File
	buf    []byte // of wait

	mu  sync.Mutex      // guards ask, which takes one question at a time
	ask *netlink.Handle // nil after Close
}

func newSource() (source, error) {
	ask, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	events, err := subscribe()
	if err != nil {
		ask.Close()
		return nil, err
	}
	return &netlinkSource{events: events, ask: ask, buf: make([]byte, 32<<10)}, nil
}

// subscribe opens the socket of announcements as a file, so that a Close wakes
// its reader.
func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink bind: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// wait does not look at the messages: that something came is enough. ENOBUFS
// says that announcements were lost, which is a trigger as well.
func (s *netlinkSource) wait() error {
	_, err := s.events.Read(s.buf)
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

func (s *netlinkSource) interfaces() ([]Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ask == nil {
		return nil, os.ErrClosed
	}
	links, err := s.ask.LinkList()
	if err != nil {
		return nil, err
	}
	list := make([]Interface, 0, len(links))
	for _, l := range links {
		attrs := l.Attrs()
		list = append(list, Interface{Name: attrs.Name, Index: attrs.Index, Flags: attrs.Flags})
	}
	addrs, err := s.ask.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		i := slices.IndexFunc(list, func(i Interface) bool { return i.Index == a.LinkIndex })
		if p, ok := prefix(a.IPNet); ok && i >= 0 {
			list[i].Addrs = append(list[i].Addrs, p)
		}
	}
	return list, nil
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

// routes lists the default routes of the main table.
func (s *netlinkSource) routes() ([]route, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ask == nil {
		return nil, os.ErrClosed
	}
	var list []route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := s.ask.RouteList(nil, family)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			if r.Dst == nil || r.Dst.IP.IsUnspecified() && isWhole(r.Dst.Mask) {
				list = append(list, hops(r)...)
			}
		}
	}
	slices.SortFunc(list, func(a, b route) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.gateway, b.gateway))
	})
	return list, nil
}

func isWhole(mask net.IPMask) bool {
	ones, _ := mask.Size()
	return ones == 0
}

func hops(r netlink.Route) []route {
	if len(r.MultiPath) == 0 {
		return []route{{index: r.LinkIndex, gateway: r.Gw.String()}}
	}
	var list []route
	for _, h := range r.MultiPath {
		list = append(list, route{index: h.LinkIndex, gateway: h.Gw.String()})
	}
	return list
}

func (s *netlinkSource) Close() error {
	err := s.events.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ask.Close()
	s.ask = nil
	return err
}
