//go:build linux

package routing

import (
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/fsnotify/fsnotify"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// sysctls are the files that switch IPv6 on and off, of which the kernel announces
// nothing; the first one is the link's.
func sysctls(link string) []string {
	return []string{ipv6Switch(link), ipv6Switch("all")}
}

// watcher tells when the kernel announces a change of links, addresses, rules or
// routes, and of the packet filter. Several announcements become one.
type watcher struct {
	inside   []netip.Prefix    // routes in there concern us
	changed  chan struct{}     // holds one
	filtered chan struct{}     // holds one: the packet filter changed
	feeds    [2]*feed          // of routes and of the packet filter; nil before the first
	files    *fsnotify.Watcher // of sysctls; nil where there can be none
	wg       sync.WaitGroup
}

// feed is one socket that hears announcements.
type feed struct {
	sock  *nl.NetlinkSocket
	ended chan struct{} // closed when its reader has ended
}

// filterGroup is the group of announcements about nf_tables, and newGeneration the type of
// those that end each change of it (linux/netfilter/nfnetlink.h and nf_tables.h). What
// iptables sets is announced too, unless it is the legacy one.
const (
	filterGroup   = 7
	newGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
)

func newWatcher(link string, inside []netip.Prefix) *watcher {
	w := &watcher{inside: inside, changed: make(chan struct{}, 1), filtered: make(chan struct{}, 1)}
	files, err := fsnotify.NewWatcher()
	if err != nil {
		return w
	}
	for _, path := range sysctls(link) {
		_ = files.Add(path) // a kernel without IPv6 has none
	}
	w.files = files
	w.wg.Go(func() {
		for range files.Events {
			signal(w.changed)
		}
	})
	return w
}

// ensure starts the readers that do not run. The sockets are opened by the calling
// goroutine, in its network namespace. A failure is not reported: the caller
// looks by itself anyway and calls again.
func (w *watcher) ensure() {
	w.subscribe(0, w.changed, w.concerns, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	w.subscribe(1, w.filtered, func(m syscall.NetlinkMessage) bool { return m.Header.Type == newGeneration },
		unix.NETLINK_NETFILTER, filterGroup)
}

// subscribe starts the reader of one feed, if none runs, that signals announcements which
// concern us.
func (w *watcher) subscribe(i int, to chan<- struct{}, concerns func(syscall.NetlinkMessage) bool, protocol int, groups ...uint) {
	if f := w.feeds[i]; f != nil {
		select {
		case <-f.ended:
			f.close()
			w.feeds[i] = nil
		default:
			return
		}
	}
	sock, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return
	}
	f := &feed{sock: sock, ended: make(chan struct{})}
	w.feeds[i] = f
	w.wg.Go(func() { f.read(to, concerns) })
}

// close ends the readers and waits for them.
func (w *watcher) close() {
	if w.files != nil {
		_ = w.files.Close()
	}
	for _, f := range w.feeds {
		if f != nil {
			f.close()
		}
	}
	w.wg.Wait()
}

// close ends the reader and waits for it.
func (f *feed) close() {
	f.sock.Close()
	<-f.ended
}

// read ends when the socket is closed, or when the kernel says that it dropped
// announcements (ENOBUFS): the state is then unknown and is looked at.
func (f *feed) read(to chan<- struct{}, concerns func(syscall.NetlinkMessage) bool) {
	defer close(f.ended)
	defer signal(to)
	for {
		msgs, _, err := f.sock.Receive()
		if err != nil {
			return
		}
		if slices.ContainsFunc(msgs, concerns) {
			signal(to)
		}
	}
}

func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// concerns leaves out new routes outside the overlay: what others add is theirs, and a
// router with a full table adds thousands.
func (w *watcher) concerns(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_DELROUTE:
		return mainTable(m.Data) || w.overlay(m)
	case unix.RTM_NEWROUTE:
		return w.overlay(m)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return true
	default:
		return false
	}
}

// mainTable reports whether a route message concerns the main table. The
// rtm_table byte is enough: ours is numbered below 256.
func mainTable(rtmsg []byte) bool {
	return len(rtmsg) >= unix.SizeofRtMsg && rtmsg[4] == unix.RT_TABLE_MAIN
}

// overlay reports whether a route message is about an address of the overlay.
func (w *watcher) overlay(m syscall.NetlinkMessage) bool {
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return false
	}
	for _, attr := range attrs {
		if addr, ok := netip.AddrFromSlice(attr.Value); attr.Attr.Type == unix.RTA_DST && ok {
			return slices.ContainsFunc(w.inside, func(p netip.Prefix) bool { return p.Contains(addr) })
		}
	}
	return false
}
