package relayactor

import (
	"fmt"
	"sync"

	"github.com/nodetun/nodetun/identity"
)

// handler takes what one connection receives.
type handler struct {
	link   *link
	last   identity.NodeID // heard last, to spare the set a look
	health string          // the relay's last words
}

// RelayPacket hands a batch on, if its source is admitted.
func (h *handler) RelayPacket(src identity.NodeID, payload []byte) {
	a := h.link.actor
	if a.cfg.Admit != nil && !a.cfg.Admit(src) {
		a.count.notAdmitted.Add(1)
		a.count.notAdmittedSize.Add(uint64(len(payload)))
		h.link.dropped(len(payload))
		return
	}
	if len(payload) == 0 {
		return
	}
	if src != h.last {
		h.link.heard.add(src)
		h.last = src
	}
	a.count.packetsReceived.Add(1)
	a.count.bytesReceived.Add(uint64(len(payload)))
	a.cfg.Deliver(h.link.url, src, payload)
}

// RelayGone forgets that a node can be reached through this relay.
func (h *handler) RelayGone(id identity.NodeID) {
	h.link.heard.remove(id)
	if id == h.last {
		h.last = identity.NodeID{}
	}
}

// RelayHealth keeps what the relay says, which usually is why it closes the
// connection next. Only the first text of a connection is logged: a relay may
// send as many as it likes.
func (h *handler) RelayHealth(text string) {
	h.link.noteShared(text)
	if h.health == "" {
		h.link.actor.logger.Info("relay says", "relay", h.link.url.String(), "text", text)
	}
	h.health = text
}

// refusedError is the end of a connection that the relay gave a reason for.
type refusedError struct {
	text string
	err  error
}

func (e *refusedError) Error() string { return fmt.Sprintf("relay says: %s", e.text) }
func (e *refusedError) Unwrap() error { return e.err }

// maxHeard bounds a nodeSet.
const maxHeard = 4096

// nodeSet is a bounded set of nodes, safe for concurrent use.
type nodeSet struct {
	mu sync.RWMutex
	m  map[identity.NodeID]struct{}
}

func (s *nodeSet) has(id identity.NodeID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.m[id]
	return ok
}

// add adds id, in place of any other when the set is full.
func (s *nodeSet) add(id identity.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[identity.NodeID]struct{})
	}
	if _, ok := s.m[id]; !ok && len(s.m) >= maxHeard {
		for other := range s.m {
			delete(s.m, other)
			break
		}
	}
	s.m[id] = struct{}{}
}

func (s *nodeSet) remove(id identity.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, id)
}

func (s *nodeSet) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.m)
}
