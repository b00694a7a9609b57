package engine

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/nodetun/nodetun/internal/wire"
)

const (
	// heapPressure is from how many live bytes on somebody is to blame, besides peerBytes for
	// each peer. A node at rest has 15 MB; the budget, and the windows of flows that stand
	// still, take less than the rest.
	heapPressure = 128 << 20
	peerBytes    = 32 << 10
	// leastHeld is what a peer must hold to be blamed, in bytes on the wire.
	leastHeld = 1 << 20
	// Memory is given back when so much of it has been free for so long.
	freeEnough   = 8 << 20
	releaseAfter = 20 * time.Second
	maxRelease   = 10 * time.Minute // while that gives little
)

// MemoryLimit is how many bytes a node with so many peers should take: from there on garbage
// is collected as soon as there is any.
func MemoryLimit(peers int) int64 { return heapPressure + 32<<20 + peerBytes*int64(peers) }

// guard is what the guard of memory knows of a peer or a session; only guardMemory uses it.
//
// The guard ends the sessions of a peer that fills the memory (S29). QUIC's windows count the
// bytes of a stream, and not what they cost while nobody reads them: a frame of one byte
// takes some 170, one of 128 bytes 1500. What lies there cannot be asked for. But it came
// over the wire and was never handed on, and that is known.
type guard struct {
	received, sent uint64 // counters of a session at the last look
	handed         uint64 // that of a peer
	held           int64  // by a peer: bytes on the wire that were not handed on
}

// look brings what a peer holds up to date. Headers, acknowledgements and what is sent again
// are on the wire too, and are forgiven.
func (g *guard) look(received, sent, handed uint64) {
	g.held = max(0, g.held+int64(received)-int64(handed)*17/16-int64(sent)*48-32<<10)
}

// guardMemory looks after each collection of garbage, and so the more often the faster the
// heap grows. What is free after a time of much traffic it gives back to the host.
func (e *Engine) guardMemory() {
	collected := make(chan struct{}, 1)
	afterGC(func() bool {
		select {
		case collected <- struct{}{}:
		default:
		}
		return e.life.Err() == nil
	})
	release := time.NewTimer(time.Hour)
	release.Stop()
	defer release.Stop()
	waits, waiting, pause, busy := false, false, releaseAfter, 0
	for {
		select {
		case <-e.life.Done():
			return
		case <-release.C:
			if waiting = busy > 1; waiting { // traffic goes on
				busy = 0
				release.Reset(releaseAfter)
				continue
			}
			_, before := heap()
			debug.FreeOSMemory()
			if _, after := heap(); after < before*3/4 {
				pause = releaseAfter
			} else { // it is in pieces
				pause = min(2*pause, maxRelease)
			}
			continue
		case <-collected:
		}
		busy++
		live, free := heap()
		if free > freeEnough && !waiting {
			waiting, busy = true, 0
			release.Reset(pause)
		}
		worst := e.lookAtPeers(live)
		// What the last one held is free at the next look.
		if waits = !waits && worst != nil && live > e.pressure(); waits {
			e.log.Warn("a peer fills the memory: its connections are closed", "peer", worst.id, "unread", worst.guard.held, "heap", live)
			worst.guard.held = 0
			for _, s := range worst.live() {
				s.goodbye(wire.CloseProtocol, "holds too much")
			}
		}
	}
}

// pressure is from how many live bytes on somebody is to blame.
func (e *Engine) pressure() uint64 { return heapPressure + peerBytes*uint64(len(*e.peers.Load())) }

// lookAtPeers returns the one that holds most, if that is much.
func (e *Engine) lookAtPeers(live uint64) (worst *peer) {
	for _, p := range *e.peers.Load() {
		var received, sent uint64
		for _, s := range p.live() {
			now := s.conn.Stats()
			received += now.BytesReceived - s.guard.received
			sent += now.PacketsSent - s.guard.sent
			s.guard.received, s.guard.sent = now.BytesReceived, now.PacketsSent
		}
		handed := p.rx.Load()
		p.guard.look(received, sent, handed-p.guard.handed)
		p.guard.handed = handed
		if live < e.pressure()/2 {
			p.guard.held = 0
		}
		if p.guard.held >= leastHeld && (worst == nil || p.guard.held > worst.guard.held) {
			worst = p
		}
	}
	return worst
}

// afterGC calls f after each collection of garbage, as long as it returns true.
func afterGC(f func() bool) {
	runtime.AddCleanup(&struct{ _ [32]byte }{}, func(f func() bool) {
		if f() {
			afterGC(f)
		}
	}, f)
}

// heap returns how many bytes the last collection of garbage has left, and how many more
// the process has of the host.
func heap() (live, free uint64) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	live = sample[0].Value.Uint64()
	return live, sample[1].Value.Uint64() - sample[2].Value.Uint64() - live
}
