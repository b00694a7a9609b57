package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/internal/wire"
)

// frames holds buffers for datagrams on their way to a peer. The pool is what
// lets a full queue cost no garbage.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

// sendPacket sends one IP packet of the host to the peer, by the session that
// is up, or after the dial that the packet brings about. ip is not kept.
func (p *peer) sendPacket(ip []byte) {
	s := p.current.Load()
	if s == nil {
		p.enqueue(ip)
		return
	}
	if !p.answering() {
		p.dialInBackground()
		p.engine.count.drop(dropUnreachable)
		p.engine.answerICMP(ip, unreachableCode)
		return
	}
	s.sendPacket(ip)
}

// sendPacket queues one IP packet for the peer; a full queue drops it.
func (s *session) sendPacket(ip []byte) {
	frame := frames.Get().(*[]byte)
	b, err := wire.AppendPacket((*frame)[:0], ip, &s.ends)
	if err != nil {
		frames.Put(frame)
		s.peer.engine.count.drop(dropDecode)
		return
	}
	*frame = b
	s.peer.tx.Add(uint64(len(ip)))
	s.peer.engine.count.txDatagrams.Add(uint64(len(ip)))
	s.queue(frame)
}

// queue hands a frame to the writer, which gives it back to the pool.
func (s *session) queue(frame *[]byte) {
	select {
	case s.out <- queued{frame, time.Now()}:
	default:
		frames.Put(frame)
		s.peer.engine.count.drop(dropQueue)
	}
}

// writeDatagrams is the only caller of the connection's SendDatagram, which
// blocks while QUIC's own queue is full.
func (s *session) writeDatagrams(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-s.out:
			if time.Since(q.at) < datagramAge {
				s.sendFrame(*q.frame)
			} else {
				s.peer.engine.count.drop(dropQueue)
			}
			frames.Put(q.frame)
		}
	}
}

// sendFrame sends a datagram, in two halves if it is too large for one.
func (s *session) sendFrame(frame []byte) {
	err := s.conn.SendDatagram(frame)
	var tooLarge *endpoint.DatagramTooLargeError
	if errors.As(err, &tooLarge) {
		s.sendHalves(frame, int(tooLarge.MaxDatagramPayloadSize))
	}
}

func (s *session) sendHalves(frame []byte, limit int) {
	first, second, err := wire.Split(frame, uint16(s.splitID.Add(1)), limit)
	if err != nil {
		s.peer.engine.count.drop(dropDecode)
		return
	}
	if s.conn.SendDatagram(first) == nil {
		_ = s.conn.SendDatagram(second)
	}
}

// readDatagrams takes what the peer sends until the connection ends.
func (s *session) readDatagrams(ctx context.Context) {
	buf := make([]byte, 0, 1<<16)
	for {
		frame, err := s.conn.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		now := time.Now()
		s.peer.saw(now)
		s.receive(frame, buf, now)
	}
}

// receive handles one datagram; buf is scratch.
func (s *session) receive(frame, buf []byte, now time.Time) {
	if len(frame) == 0 {
		s.peer.engine.count.drop(dropDecode)
		return
	}
	switch frame[0] {
	case wire.KindFirstHalf, wire.KindSecondHalf:
		whole, err := s.joiner.Add(now, frame)
		if err != nil {
			s.peer.engine.count.drop(dropDecode)
		} else if whole != nil {
			s.receivePacket(whole, buf, now)
		}
	case wire.KindPing:
		s.answerPing(frame)
	case wire.KindPong:
		s.pings.answered(frame)
	default:
		s.receivePacket(frame, buf, now)
	}
}

// receivePacket gives the IP packet of a datagram to the host, if it passes
// the check.
func (s *session) receivePacket(frame, buf []byte, now time.Time) {
	p := s.peer
	ip, err := wire.DecodePacket(buf[:0], frame, &s.ends)
	if err != nil {
		p.engine.count.drop(dropDecode)
		return
	}
	p.rx.Add(uint64(len(ip)))
	p.engine.count.rxDatagrams.Add(uint64(len(ip)))
	p.deliver(s, ip, now)
}
