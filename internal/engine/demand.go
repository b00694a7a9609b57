package engine

import (
	"maps"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/rules"
)

// OnDemand says which packets of this host may dial a node that is no peer (S19). Such a
// node may reach nothing here.
type OnDemand int

// The values of OnDemand.
const (
	OnDemandOff OnDemand = iota
	// OnDemandSSH is TCP to port 22 and ICMP echo, which no web page can send.
	OnDemandSSH
	OnDemandAny
)

// Limits of nodes on demand.
const (
	maxDemand      = 64               // at a time
	maxDemandDials = 8                // of which so many are being dialled, or wait for that
	demandGap      = time.Second      // between the first dials of two
	demandIdle     = 10 * time.Minute // without a packet of ours: forgotten
	demandTouch    = time.Minute      // how often the table hears that one is in use
	sshPort        = 22
)

// permits reports whether a packet may go to a node that is no peer.
func (o OnDemand) permits(info *packet.Info) bool {
	switch o {
	case OnDemandAny:
		return true
	case OnDemandSSH:
		return info.Proto == protoTCP && info.DstPort == sshPort || isEcho(info) && !isEchoReply(info)
	default:
		return false
	}
}

// demand is what the engine remembers of nodes on demand.
type demand struct {
	mu   sync.Mutex // guards the fields below; held while Engine.peers is replaced
	last time.Time  // when the newest is dialled first
	told time.Time  // when a refusal was logged
}

// onDemand returns the entry of a node that is no peer, for a packet that may go there; p
// is the entry that it has already, nil for none. Without an entry the packet is dropped
// for the reason.
func (e *Engine) onDemand(id identity.NodeID, p *peer, info *packet.Info, now time.Time) (*peer, dropReason) {
	switch {
	case e.cfg.OnDemand == OnDemandOff:
		return nil, dropNoPeer
	case !e.cfg.OnDemand.permits(info):
		e.tellRefusal(id, info, now)
		return nil, dropOnDemand
	case p == nil:
		if p = e.addOnDemand(id, now); p == nil {
			return nil, dropQueue // who sends it tries again
		}
	}
	if used := p.used.Load(); now.UnixNano()-used > int64(demandTouch) && p.used.CompareAndSwap(used, now.UnixNano()) {
		e.cfg.Table.Touch(id, now)
	}
	return p, 0
}

// tellRefusal logs, once a minute, that a packet to a node that is no peer was refused.
func (e *Engine) tellRefusal(id identity.NodeID, info *packet.Info, now time.Time) {
	e.demand.mu.Lock()
	defer e.demand.mu.Unlock()
	if now.Sub(e.demand.told) >= time.Minute {
		e.demand.told = now
		e.log.Info("refused: that node is no peer, and on_demand does not allow this", "node", id, "protocol", info.Proto, "port", info.DstPort)
	}
}

// addOnDemand makes an entry, unless too many are being dialled or in use. The dial waits
// for its turn.
func (e *Engine) addOnDemand(id identity.NodeID, now time.Time) *peer {
	e.demand.mu.Lock()
	defer e.demand.mu.Unlock()
	old := *e.peers.Load()
	if p := old[id]; p != nil {
		return p
	}
	var count, dialled int
	var oldest *peer
	for _, p := range old {
		if !p.access.Load().onDemand {
			continue
		}
		count++
		dials, busy := p.busy()
		if dials {
			dialled++
		}
		if !busy && (oldest == nil || p.used.Load() < oldest.used.Load()) {
			oldest = p
		}
	}
	if dialled >= maxDemandDials || count >= maxDemand && oldest == nil {
		return nil
	}
	next := maps.Clone(old)
	if oldest != nil && (count >= maxDemand || now.UnixNano()-oldest.used.Load() > int64(demandIdle)) {
		delete(next, oldest.id)
		e.spawn(func() { e.drop(oldest) })
	}
	p := newPeer(e, id)
	p.access.Store(&access{rules: rules.Rules{}, onDemand: true})
	if p.turn = e.demand.last.Add(demandGap); p.turn.Before(now) {
		p.turn = now
	}
	e.demand.last = p.turn
	next[id] = p
	e.peers.Store(&next)
	return p
}

// busy reports whether the peer is being dialled, and whether anything runs with it.
func (p *peer) busy() (dials, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dials = p.attempt != nil
	return dials, dials || len(p.flows) > 0
}

// drop ends what runs with a node that is not in the list any more.
func (e *Engine) drop(p *peer) {
	p.forget()
	e.cfg.Endpoint.Socket().Forget(p.id)
}
