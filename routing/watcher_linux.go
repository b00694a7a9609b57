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
// routes. Several announcements become one.
type watcher struct {
	inside  []netip.Prefix // routes in there concern us
	changed chan struct{}  // holds one
	ended   chan struct{}  // closed when the reader has ended; nil before the first
	sock    *nl.NetlinkSocket
	files   *fsnotify.Watcher // of sysctls; nil where there can be none
	wg      sync.WaitGroup
}

func newWatcher(link string, inside []netip.Prefix) *watcher {
	w := &watcher{inside: inside, changed: make(chan struct{}, 1)}
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
			w.signal()
		}
	})
	return w
}

// ensure starts the reader if none runs. The socket is opened by the calling
// goroutine, in its network namespace. A failure is not reported: the caller
// looks by itself anyway and calls again.
func (w *watcher) ensure() {
	if w.ended != nil {
		select {
		case <-w.ended:
			w.unsubscribe()
		default:
			return
		}
	}
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return
	}
	w.sock, w.ended = sock, make(chan struct{})
	ended := w.ended
	w.wg.Go(func() { w.read(sock, ended) })
}

// close ends the readers and waits for them.
func (w *watcher) close() {
	if w.files != nil {
		_ = w.files.Close()
	}
	w.unsubscribe()
	w.wg.Wait()
}

// unsubscribe ends the reader of announcements and waits for it.
func (w *watcher) unsubscribe() {
	if w.sock == nil {
		return
	}
	w.sock.Close()
	<-w.ended
	w.sock, w.ended = nil, nil
}

// read ends when the socket is closed, or when the kernel says that it dropped
// announcements (ENOBUFS): the state is then unknown and is looked at.
func (w *watcher) read(sock *nl.NetlinkSocket, ended chan<- struct{}) {
	defer close(ended)
	defer w.signal()
	for {
		msgs, _, err := sock.Receive()
		if err != nil {
			return
		}
		for _, m := range msgs {
			if w.concerns(m) {
				w.signal()
			}
		}
	}
}

func (w *watcher) signal() {
	select {
	case w.changed <- struct{}{}:
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
