package localapi

import (
	"net"
	"net/http"
	"sync"
)

// maxCrowd bounds the connections of those who may not do everything, so that nobody of the
// group keeps others, or the node itself, from opening files.
const maxCrowd = 64

// crowd counts these connections. The zero value is ready for use.
type crowd struct {
	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

// enter counts one in and reports false if it is too much.
func (c *crowd) enter(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.conns) >= maxCrowd {
		return false
	}
	if c.conns == nil {
		c.conns = make(map[net.Conn]struct{})
	}
	c.conns[conn] = struct{}{}
	return true
}

// watch is for http.Server.ConnState: it counts out what has ended.
func (c *crowd) watch(conn net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}
