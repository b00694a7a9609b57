package relay

import (
	"encoding/binary"
	"errors"
)

// MaxDatagram is the longest datagram that fits a batch.
const MaxDatagram = MaxBatch - datagramHeader

// datagramHeader is the length in front of each datagram of a batch.
const datagramHeader = 2

// ErrBatch is returned for a batch whose last datagram is cut short.
var ErrBatch = errors.New("truncated relay batch")

// AppendDatagram appends one datagram of at most MaxDatagram bytes to a batch.
func AppendDatagram(dst, d []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(d)))
	return append(dst, d...)
}

// NextDatagram takes the first datagram off a batch that is not empty. Both
// results are parts of b; an empty datagram is legal. After ErrBatch nothing
// more can be read, but what was read before is good.
func NextDatagram(b []byte) (d, rest []byte, err error) {
	if len(b) < datagramHeader {
		return nil, nil, ErrBatch
	}
	n := int(binary.LittleEndian.Uint16(b))
	b = b[datagramHeader:]
	if n > len(b) {
		return nil, nil, ErrBatch
	}
	return b[:n], b[n:], nil
}

// discoMagic starts every disco packet.
const discoMagic = "TS\xf0\x9f\x92\xac"

// IsDisco reports whether the first datagram of a batch starts as disco does.
// Such packets go first at a relay: they find the path that relieves it.
func IsDisco(batch []byte) bool {
	const at = datagramHeader
	return len(batch) >= at+len(discoMagic) && string(batch[at:at+len(discoMagic)]) == discoMagic
}
