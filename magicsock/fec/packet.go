package fec

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/dchest/siphash"
)

// First bytes of packets.
const (
	KindData   = 0x34
	KindParity = 0x35
)

// Sizes, in packets and in bytes.
const (
	BlockSize  = 64   // data packets of a block, at the most
	MaxParity  = 16   // parity packets of a block, at the most
	HeaderLen  = 14   // of a data packet
	MaxPacket  = 1452 // of a QUIC packet
	parityLen  = 12   // of the header of a parity packet
	unitHeader = HeaderLen - parityLen
	maxUnit    = unitHeader + MaxPacket // what is coded
	tagAt      = 8
	tagLen     = 4
	tagged     = HeaderLen + 16 // bytes of a data packet that the tag covers
)

// What may be wrong with a packet, which is dropped then.
var (
	ErrTag       = errors.New("fec: wrong tag")
	ErrMalformed = errors.New("fec: malformed packet")
)

// Key is that of the tags of one direction.
type Key [16]byte

// sum computes the tag of a packet whose tag is zero.
func (k *Key) sum(b []byte) uint32 {
	k0, k1 := binary.LittleEndian.Uint64(k[:8]), binary.LittleEndian.Uint64(k[8:])
	return uint32(siphash.Hash(k0, k1, b))
}

// covered is the part of a packet that the tag covers.
func covered(b []byte) []byte {
	if b[0] == KindData {
		return b[:min(len(b), tagged)]
	}
	return b
}

// seal puts the tag into a packet.
func (k *Key) seal(b []byte) {
	clear(b[tagAt : tagAt+tagLen])
	binary.BigEndian.PutUint32(b[tagAt:], k.sum(covered(b)))
}

// open checks the tag of a packet, and leaves it as it was.
func (k *Key) open(b []byte) error {
	if len(b) < parityLen {
		return ErrMalformed
	}
	tag := binary.BigEndian.Uint32(b[tagAt:])
	clear(b[tagAt : tagAt+tagLen])
	ok := k.sum(covered(b)) == tag
	binary.BigEndian.PutUint32(b[tagAt:], tag)
	if !ok {
		return ErrTag
	}
	return nil
}

// Inside returns the QUIC packet of a data packet whose tag nobody can check, nil if it is none.
func Inside(b []byte) []byte {
	p, err := parseData(b)
	if err != nil {
		return nil
	}
	return p.packet
}

// data is what the header of a data packet says.
type data struct {
	number uint32
	sent   ticks
	want   uint8
	ecn    uint8
	packet []byte // the QUIC packet
}

// unit is what is coded of a data packet: ECN, length and the QUIC packet.
func unit(b []byte) []byte { return b[parityLen:] }

// parseUnit reads what was coded; more than its packet may follow.
func parseUnit(u []byte) (packet []byte, ecn uint8, err error) {
	if len(u) < unitHeader {
		return nil, 0, ErrMalformed
	}
	field := binary.BigEndian.Uint16(u)
	n := int(field & 0x3fff)
	if n == 0 || n > MaxPacket || unitHeader+n > len(u) {
		return nil, 0, ErrMalformed
	}
	return u[unitHeader : unitHeader+n], uint8(field >> 14), nil
}

// parseData reads a data packet.
func parseData(b []byte) (data, error) {
	if len(b) <= HeaderLen || b[0] != KindData || b[7] > MaxParity {
		return data{}, ErrMalformed
	}
	packet, ecn, err := parseUnit(unit(b))
	if err != nil || len(packet) != len(b)-HeaderLen {
		return data{}, ErrMalformed
	}
	return data{
		number: binary.BigEndian.Uint32(b[1:]), sent: ticks(binary.BigEndian.Uint16(b[5:])), want: b[7], ecn: ecn, packet: packet,
	}, nil
}

// parity is what the header of a parity packet says.
type parity struct {
	first        uint32
	count, index int
	row          []byte
}

// parseParity reads a parity packet, whose tag is right.
func parseParity(b []byte) (parity, error) {
	p := parity{}
	if len(b) <= parityLen+unitHeader || len(b) > parityLen+maxUnit || b[0] != KindParity || b[7] != 0 {
		return p, ErrMalformed
	}
	p.first, p.count, p.index, p.row = binary.BigEndian.Uint32(b[1:]), int(b[5]), int(b[6]), b[parityLen:]
	if p.count == 0 || p.count > BlockSize || p.index >= MaxParity {
		return p, ErrMalformed
	}
	return p, nil
}

// ticks is a time in units of 100 µs, which comes round every 6.5536 s.
type ticks uint16

const tick = 100 * time.Microsecond

func ticksOf(since time.Duration) ticks { return ticks(since / tick) }

// since returns how long after other t is, if that is less than half a round before or after.
func (t ticks) since(other ticks) time.Duration { return time.Duration(int16(t-other)) * tick }
