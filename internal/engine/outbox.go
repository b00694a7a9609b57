package engine

import (
	"slices"
	"sync"

	"github.com/nodetun/nodetun/internal/wire"
)

// outbox holds the control messages that wait for their stream. Each of them tells a
// state, so of one type the newest is all that is worth sending: a peer that is away
// for hours gets it when it is back. Make it with newOutbox.
type outbox struct {
	kick chan struct{} // holds one: something waits

	mu      sync.Mutex // guards waiting
	waiting []outgoing // at most one of a type, the one that was due first in front
}

type outgoing struct {
	kind  wire.MessageType
	frame []byte
}

func newOutbox() *outbox { return &outbox{kick: make(chan struct{}, 1)} }

// put adds a message, in the place of one of its type if that waits still.
func (o *outbox) put(kind wire.MessageType, frame []byte) {
	o.mu.Lock()
	at := slices.IndexFunc(o.waiting, func(w outgoing) bool { return w.kind == kind })
	if at < 0 {
		o.waiting = append(o.waiting, outgoing{kind, frame})
	} else {
		o.waiting[at].frame = frame
	}
	o.mu.Unlock()
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// take returns the message that is due, nil for none.
func (o *outbox) take() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		return nil
	}
	frame := o.waiting[0].frame
	o.waiting = slices.Delete(o.waiting, 0, 1)
	return frame
}
