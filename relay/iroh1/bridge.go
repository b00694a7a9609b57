package iroh1

import (
	"fmt"

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

// Decoder reads the messages of one end as frames of package relay. What is lost is
// the ECN field.
type Decoder struct {
	// FromServer: they are those of a server.
	FromServer bool

	rest  Packet // not handed out yet
	batch []byte // of one frame
}

// Next returns the next frame; message yields the next message. The body is valid
// until the next call. What says nothing in version 3 is left out.
func (d *Decoder) Next(message func() ([]byte, error)) (relay.Type, []byte, error) {
	packet := relay.TypeSendPacket
	if d.FromServer {
		packet = relay.TypeRecvPacket
	}
	for {
		d.batch = append(d.batch[:0], d.rest.Node[:]...)
		var ok bool
		if d.batch, ok = d.rest.NextBatch(d.batch); ok {
			return packet, d.batch, nil
		}
		m, err := message()
		if err != nil {
			return 0, nil, err
		}
		t, body, err := Parse(m)
		if err != nil {
			return 0, nil, err
		}
		if t.isPacket(d.FromServer) {
			if d.rest, err = ParsePacket(t, body); err != nil {
				return 0, nil, err
			}
			continue
		}
		frame, body, err := d.frame(t, body)
		if frame != 0 || err != nil {
			return frame, body, err
		}
	}
}

// isPacket says that t is a packet of a server, or of a client.
func (t Type) isPacket(fromServer bool) bool {
	if fromServer {
		return t == TypeRecvDatagram || t == TypeRecvBatch
	}
	return t == TypeSendDatagram || t == TypeSendBatch
}

// frame is the frame of a message that is no packet, 0 for one that is left out.
func (d *Decoder) frame(t Type, body []byte) (relay.Type, []byte, error) {
	switch {
	case t == TypePing:
		return relay.TypePing, body, nil
	case t == TypePong:
		return relay.TypePong, body, nil
	case !d.FromServer, t < TypeEndpointGone:
		return 0, nil, fmt.Errorf("%w: %d from this side", ErrUnknownType, t)
	case t == TypeEndpointGone:
		return relay.TypePeerGone, body, nil
	case t == TypeHealth:
		return relay.TypeHealth, body, nil
	case t == TypeRestarting:
		return relay.TypeRestarting, body, nil
	}
	switch body[0] {
	case StatusHealthy:
		return relay.TypeHealth, []byte(relay.HealthBack), nil
	case StatusSameID:
		return relay.TypeHealth, []byte(relay.HealthElsewhere), nil
	case StatusRateLimited:
		return relay.TypeHealth, []byte("the relay limits how much this node may send"), nil
	}
	return 0, nil, nil
}

// Encoder writes frames of package relay as messages of one end.
type Encoder struct {
	// FromServer: the messages are to be those of a server, of this version.
	FromServer, V2 bool

	scratch []byte
}

// Encode calls emit with each message that it takes to say what whole frames say.
// A message is valid until emit returns.
func (e *Encoder) Encode(frames []byte, emit func(message []byte) error) error {
	for {
		frame, rest, ok := relay.NextFrame(frames)
		if !ok {
			return nil
		}
		if err := e.frame(relay.Type(frame[0]), frame[relay.HeaderLen:], emit); err != nil {
			return err
		}
		frames = rest
	}
}

func (e *Encoder) frame(t relay.Type, body []byte, emit func(message []byte) error) error {
	out := e.scratch[:0]
	switch t {
	case relay.TypeSendPacket, relay.TypeRecvPacket:
		node, batch, err := relay.ParsePacket(body)
		if err != nil {
			return err
		}
		e.scratch, err = EachPacket(e.scratch, !e.FromServer, node, batch, emit)
		return err
	case relay.TypePing:
		out = AppendPing(out, [8]byte(body))
	case relay.TypePong:
		out = AppendPong(out, [8]byte(body))
	case relay.TypePeerGone:
		out = AppendEndpointGone(out, identity.NodeID(body))
	case relay.TypeHealth:
		out = e.health(out, string(body))
	case relay.TypeRestarting:
		out = append(append(out, byte(TypeRestarting)), body...)
	}
	if len(out) == 0 { // KeepAlive and NotePreferred have no counterpart
		return nil
	}
	e.scratch = out
	return emit(out)
}

// health says what a text means: since v2 that is a number.
func (e *Encoder) health(out []byte, text string) []byte {
	switch {
	case !e.V2:
		return AppendHealth(out, text)
	case text == relay.HealthElsewhere:
		return AppendStatus(out, StatusSameID)
	case text == relay.HealthBack:
		return AppendStatus(out, StatusHealthy)
	}
	return out
}
