package iroh1

import (
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// NextBatch takes datagrams off the packet and appends them to dst as a batch of
// package relay, as many as one may hold; false when none are left. Empty ones and
// those that no frame may carry are left out.
func (p *Packet) NextBatch(dst []byte) ([]byte, bool) {
	begin := len(dst)
	for {
		rest := p.Datagrams
		d, ok := p.Next()
		if !ok {
			return dst, len(dst) > begin
		}
		if len(d) == 0 || len(d) > min(MaxDatagram, relay.MaxDatagram) {
			continue
		}
		if len(dst)-begin+2+len(d) > relay.MaxBatch {
			p.Datagrams = rest
			return dst, true
		}
		dst = relay.AppendDatagram(dst, d)
	}
}

// EachPacket calls emit with the message of every packet that it takes to carry a
// batch of package relay, from a client (send) or a server: datagrams of one length
// in a row share a packet, with a shorter one behind. The message is valid until
// emit returns; scratch is its memory, which is returned for the next call. Empty
// and overlong datagrams, and a last one cut short, are left out.
func EachPacket(scratch []byte, send bool, node identity.NodeID, batch []byte, emit func(message []byte) error) ([]byte, error) {
	run := scratch[:0] // the message, its datagrams as far as they are known
	p := Packet{Node: node}
	flush := func() error {
		if len(p.Datagrams) == 0 {
			return nil
		}
		run = AppendPacket(run[:0], send, p)
		p.Datagrams, p.Segment = p.Datagrams[:0], 0
		return emit(run)
	}
	var err error
	for len(batch) > 0 && err == nil {
		d, rest, cut := relay.NextDatagram(batch)
		if cut != nil {
			break
		}
		batch = rest
		if len(d) == 0 || len(d) > MaxDatagram {
			continue
		}
		closed := p.Segment > 0 && len(p.Datagrams)%p.Segment != 0
		if closed || p.Segment > 0 && len(d) > p.Segment || len(p.Datagrams)+len(d) > MaxBatch {
			err = flush()
		}
		if p.Segment == 0 {
			p.Segment = len(d)
		}
		p.Datagrams = append(p.Datagrams, d...)
	}
	if err == nil {
		err = flush()
	}
	return run, err
}
