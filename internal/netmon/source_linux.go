package netmon

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// groups are the kernel's announcements that may change a path.
const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
	unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// netlinkSource holds a socket that hears announcements, a timer that tells of
// set clocks, and a socket that asks.
type netlinkSource struct {
	events *os.File
	buf    []byte   // of wait
	timer  *os.File // nil where the kernel offers none
	mark   uint32   // of the packets that path is asked about
	closed chan struct{}

	mu  sync.Mutex      // guards ask, which takes one question at a time
	ask *netlink.Handle // nil after Close
}

func newSource(mark uint32) (source, error) {
	ask, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	events, err := subscribe()
	if err != nil {
		ask.Close()
		return nil, err
	}
	return &netlinkSource{
		events: events, timer: clockTimer(), ask: ask, mark: mark,
		buf: make([]byte, 32<<10), closed: make(chan struct{}),
	}, nil
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

// clockTimer returns a timer that never ends but is cancelled when the wall
// clock is set, which resuming from sleep does (timerfd_create(2)). Nil if
// there is none: the ticks of Run see a sleep as well, a little later.
func clockTimer() *os.File {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil
	}
	// The furthest second that 32 bits can hold too.
	never := unix.ItimerSpec{Value: unix.NsecToTimespec(math.MaxInt32 * int64(time.Second))}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), "timerfd")
}

// wait returns for the first announcement that may matter. ENOBUFS says that
// some were lost, which is a trigger as well.
func (s *netlinkSource) wait() error {
	for {
		n, err := s.events.Read(s.buf)
		if errors.Is(err, unix.ENOBUFS) {
			return nil
		}
		if err != nil || matters(s.buf[:n]) {
			return err
		}
	}
}

func (s *netlinkSource) waitClock() error {
	if s.timer == nil {
		<-s.closed
		return os.ErrClosed
	}
	var count [8]byte
	_, err := s.timer.Read(count[:])
	if errors.Is(err, unix.ECANCELED) {
		return nil
	}
	return err
}

func (s *netlinkSource) tellsClock() bool { return s.timer != nil }

// asleep is the time that the one clock counts and the other does not.
func (s *netlinkSource) asleep() time.Duration {
	var boot, running unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &running) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - running.Nano())
}

func (s *netlinkSource) interfaces() ([]Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ask == nil {
		return nil, os.ErrClosed
	}
	links, err := whole(s.ask.LinkList)
	if err != nil {
		return nil, err
	}
	list := make([]Interface, 0, len(links))
	for _, l := range links {
		attrs := l.Attrs()
		list = append(list, Interface{Name: attrs.Name, Index: attrs.Index, Flags: attrs.Flags, Kind: l.Type(), Master: attrs.MasterIndex})
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return s.ask.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		i := slices.IndexFunc(list, func(i Interface) bool { return i.Index == a.LinkIndex })
		if p, ok := prefix(a.IPNet); ok && i >= 0 && settled(a.Flags) {
			list[i].Addrs = append(list[i].Addrs, p)
		}
	}
	return list, nil
}

// whole asks again when the kernel says that the list changed while it was
// read, but not for ever: then the last list will do, a trigger follows it.
func whole[T any](ask func() ([]T, error)) ([]T, error) {
	for tries := 1; ; tries++ {
		list, err := ask()
		switch {
		case !errors.Is(err, netlink.ErrDumpInterrupted):
			return list, err
		case tries == 3:
			return list, nil
		}
	}
}

// settled says that an address may be used: duplicate address detection
// (RFC 4862 5.4) is over or not waited for, and found none.
func settled(flags int) bool {
	if flags&unix.IFA_F_DADFAILED != 0 {
		return false
	}
	return flags&unix.IFA_F_TENTATIVE == 0 || flags&unix.IFA_F_OPTIMISTIC != 0
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	addr := address(n.IP)
	return netip.PrefixFrom(addr, ones), addr.IsValid()
}

// address is zero for nil.
func address(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// routes lists the default routes of the main table that lead somewhere.
func (s *netlinkSource) routes() ([]route, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ask == nil {
		return nil, os.ErrClosed
	}
	var list []route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		some, err := whole(func() ([]route, error) { return s.defaults(family) })
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}

func (s *netlinkSource) defaults(family int) ([]route, error) {
	var list []route
	err := s.ask.RouteListFilteredIter(family, &netlink.Route{}, netlink.RT_FILTER_DST, func(r netlink.Route) bool {
		if r.Type == unix.RTN_UNICAST {
			list = append(list, hops(r, family == netlink.FAMILY_V6)...)
		}
		return true
	})
	return list, err
}

func hops(r netlink.Route, is6 bool) []route {
	one := route{is6: is6, metric: r.Priority, index: r.LinkIndex, gateway: address(r.Gw), self: address(r.Src)}
	if len(r.MultiPath) == 0 {
		return []route{one}
	}
	var list []route
	for _, h := range r.MultiPath {
		one.index, one.gateway = h.LinkIndex, address(h.Gw)
		list = append(list, one)
	}
	return list
}

func (s *netlinkSource) path(remote, local netip.Addr) (from netip.Addr, link int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ask == nil {
		return from, 0, false
	}
	options := &netlink.RouteGetOptions{Mark: s.mark}
	if local.IsValid() {
		options.SrcAddr = local.AsSlice()
	}
	if zone := remote.Zone(); zone != "" {
		options.OifIndex, _ = strconv.Atoi(zone)
	}
	routes, err := s.ask.RouteGetWithOptions(remote.WithZone("").AsSlice(), options)
	if err != nil || len(routes) == 0 {
		return from, 0, false
	}
	return address(routes[0].Src), routes[0].LinkIndex, true
}

func (s *netlinkSource) kind(link int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ask == nil {
		return ""
	}
	l, err := s.ask.LinkByIndex(link)
	if err != nil {
		return ""
	}
	return l.Type()
}

func (s *netlinkSource) Close() error {
	err := s.events.Close()
	if s.timer != nil {
		err = errors.Join(err, s.timer.Close())
	}
	close(s.closed)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ask.Close()
	s.ask = nil
	return err
}
