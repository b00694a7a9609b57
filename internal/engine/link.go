package engine

import (
	"errors"
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
	info, err := packet.Parse(ip)
	if err != nil {
		e.count.drop(dropMalformed)
		return
	}
	v := e.classify(ip, &info, time.Now())
	switch v.carrier {
	case carrierNetstack:
		e.stack.Inject(h, ip)
	case carrierDatagram:
		err := vnet.Split(h, ip, e.cfg.MTU, func(segment []byte) error {
			v.peer.sendPacket(segment)
			return nil
		})
		if err != nil {
			e.count.drop(dropMalformed)
		}
	default:
		e.refuse(ip, &info, v)
	}
}

// refuse drops a packet of the host, with an answer where the host waits for
// one.
func (e *Engine) refuse(ip []byte, info *packet.Info, v verdict) {
	e.count.drop(v.drop)
	switch v.drop {
	case dropNoPeer:
		e.answerICMP(ip, packet.NoRoute)
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
	from := e.cfg.Table.Self().V6
	if len(ip) > 0 && ip[0]>>4 == 4 {
		from = e.cfg.Table.Self().V4
	}
	if !from.IsValid() {
		return
	}
	if reply := packet.AppendUnreachable(nil, ip, code, from); reply != nil {
		e.toHost(reply)
	}
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
