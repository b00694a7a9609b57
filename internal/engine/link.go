package engine

import (
	"errors"
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/tun"
)

// readLink takes packets of the host until the link is closed.
func (e *Engine) readLink() error {
	buf := make([]byte, vnet.HeaderLen+vnet.MaxPacket)
	for {
		h, ip, err := e.cfg.Link.Read(buf)
		if errors.Is(err, tun.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		e.fromHost(h, ip)
	}
}

// fromHost takes one packet of the host, which may be a large one that the
// kernel left to us to split.
func (e *Engine) fromHost(h vnet.Header, ip []byte) {
	if e.trace.active.Load() {
		e.trace.note(ip)
	}
	info, err := packet.Parse(ip)
	if err != nil {
		e.count.drop(dropMalformed)
		return
	}
	now := time.Now()
	v := e.classify(ip, &info, now)
	switch v.carrier {
	case carrierNetstack:
		if e.probes.hold(v.peer, h, ip, &info, now) {
			return
		}
		e.noteSegment(ip, &info)
		e.stack.Inject(h, ip)
	case carrierMirror:
		e.reflect(h, ip, &info)
	case carrierDatagram:
		e.sendSplit(v.peer, h, ip)
	default:
		e.refuse(ip, &info, v)
	}
}

// sendSplit sends a packet in segments that this host and the peer can take, or
// tells the host how large they may be.
func (e *Engine) sendSplit(p *peer, h vnet.Header, ip []byte) {
	limit := p.mtu()
	err := vnet.Split(h, ip, limit, func(segment []byte) error {
		p.sendPacket(segment)
		return nil
	})
	switch {
	case errors.Is(err, vnet.ErrTooBig):
		e.count.drop(dropTooBig)
		e.answerTooBig(ip, limit)
	case err != nil:
		e.count.drop(dropMalformed)
	}
}

// minMTU is the least that a peer's MTU counts as (RFC 8200 5).
const minMTU = 1280

// mtu is the longest packet that may go to the peer, in bytes.
func (p *peer) mtu() int {
	limit := p.engine.cfg.MTU
	if s := p.current.Load(); s != nil && s.mtu > 0 {
		limit = min(limit, max(s.mtu, minMTU))
	}
	return limit
}

// refuse drops a packet of the host, with an answer where the host waits for
// one.
func (e *Engine) refuse(ip []byte, info *packet.Info, v verdict) {
	e.count.drop(v.drop)
	switch v.drop {
	case dropNoPeer:
		e.answerICMP(ip, packet.NoRoute)
	case dropOnDemand, dropForeign: // the latter of a container behind this host, most likely
		e.answerICMP(ip, packet.Prohibited)
	case dropRules:
		if info.Proto == protoTCP {
			e.answerRST(ip)
			return
		}
		e.answerICMP(ip, packet.Prohibited)
	}
}

// answerICMP tells the host that its packet goes nowhere.
func (e *Engine) answerICMP(ip []byte, code packet.Code) {
	if reply := packet.AppendUnreachable(nil, ip, code, asked(ip)); reply != nil {
		e.toHost(reply)
	}
}

// answerTooBig tells the host how long its packets may be, in bytes.
func (e *Engine) answerTooBig(ip []byte, limit int) {
	if reply := packet.AppendTooBig(nil, ip, limit, asked(ip)); reply != nil {
		e.toHost(reply)
	}
}

// asked is the destination of a packet of the host, in whose name it is answered: the host
// forwards no answer that comes from itself, and takes none by IPv4 (RFC 1812 5.3.7).
func asked(ip []byte) netip.Addr {
	info, err := packet.Parse(ip)
	if err != nil {
		return netip.Addr{}
	}
	return info.Dst
}

// answerRST resets a TCP connection of the host.
func (e *Engine) answerRST(ip []byte) {
	if reply := packet.AppendRST(nil, ip); reply != nil {
		e.toHost(reply)
	}
}

// toHost gives the host one finished packet.
func (e *Engine) toHost(ip []byte) {
	if err := e.cfg.Link.Write(vnet.Header{}, ip); err != nil && e.life.Err() == nil {
		e.log.Debug("the link took no packet", "err", err)
	}
}
