//go:build linux

package routing

import (
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watcher tells when the kernel announces a change of links, addresses, or
// routes. Several announcements become one.
type watcher struct {
	changed chan struct{} // holds one
	ended   chan struct{} // closed when the reader has ended; nil before the first
	sock    *nl.NetlinkSocket
	wg      sync.WaitGroup
}

func newWatcher() *watcher {
	return &watcher{changed: make(chan struct{}, 1)}
}

// ensure starts the reader if none runs. The socket is opened by the calling
// goroutine, in its network namespace. A failure is not reported: the caller
// looks by itself anyway and calls again.
func (w *watcher) ensure() {
	if w.ended != nil {
		select {
		case <-w.ended:
			w.close()
		default:
			return
		}
	}
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return
	}
	w.sock, w.ended = sock, make(chan struct{})
	ended := w.ended
	w.wg.Go(func() { w.read(sock, ended) })
}

// close ends the reader and waits for it.
func (w *watcher) close() {
	if w.sock == nil {
		return
	}
	w.sock.Close()
	w.wg.Wait()
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
			if concerns(m) {
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

// concerns leaves out new routes: what others add is theirs, and a router with
// a full table adds thousands.
func concerns(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_DELROUTE:
		return mainTable(m.Data)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
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
