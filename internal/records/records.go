package records

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Lengths in bytes.
const (
	// HeaderLen is that of what stands before the ciphertext.
	HeaderLen = 12
	// TagLen is that of the tag behind it.
	TagLen = 16
	// Overhead is what a record adds to its packet.
	Overhead = HeaderLen + TagLen
	// MaxLen is the longest record that is looked at.
	MaxLen = 65535 + Overhead
)

const (
	firstByte    = 0x20    // and the low bits of the epoch
	epochBits    = 22      // of the sequence number below the epoch
	maxSeq       = 1 << 48 // no record has this number or a higher one
	indexLimit   = 1 << 24
	epochLowMask = 0x0f
)

// ErrConfig says that New was given something it cannot work with.
var ErrConfig = errors.New("bad record configuration")

// Config is what both ends of a connection agree on.
type Config struct {
	// Suite is the cipher suite of the connection (crypto/tls).
	Suite uint16
	// Master is what the TLS exporter gave, MasterLen bytes. New wipes it.
	Master []byte
	// Client is set at the end that dialled.
	Client bool
	// Send is the receiver index that the other end offered, Receive our own:
	// not zero, below 2^24.
	Send, Receive uint32

	// shift replaces epochBits in tests.
	shift uint
}

// New makes the two halves of one connection.
func New(cfg Config) (*Sealer, *Opener, error) {
	defer clear(cfg.Master)
	if len(cfg.Master) != MasterLen {
		return nil, nil, fmt.Errorf("%w: master of %d bytes", ErrConfig, len(cfg.Master))
	}
	for _, index := range []uint32{cfg.Send, cfg.Receive} {
		if index == 0 || index >= indexLimit {
			return nil, nil, fmt.Errorf("%w: index %d", ErrConfig, index)
		}
	}
	if cfg.shift == 0 {
		cfg.shift = epochBits
	}
	out, in := serverToClient, clientToServer
	if cfg.Client {
		out, in = in, out
	}
	s, err := newSealer(cfg, out)
	if err != nil {
		return nil, nil, err
	}
	o, err := newOpener(cfg, in)
	if err != nil {
		return nil, nil, err
	}
	return s, o, nil
}

// Is reports whether a UDP payload is a record by its first byte.
func Is(b []byte) bool { return len(b) > 0 && b[0]&0xf0 == firstByte }

// Index returns the receiver index of a record; false when it is none.
func Index(b []byte) (uint32, bool) {
	if !Is(b) || len(b) < Overhead || len(b) > MaxLen {
		return 0, false
	}
	return binary.BigEndian.Uint32(b) & (indexLimit - 1), true
}

// header writes the first HeaderLen bytes of a record.
func header(to []byte, index uint32, epoch, seq uint64) {
	binary.BigEndian.PutUint32(to, index)
	to[0] = firstByte | byte(epoch)&epochLowMask
	binary.BigEndian.PutUint64(to[4:], seq)
}

// nonces keeps the nonces off the heap's books: what is given to an AEAD
// escapes.
var nonces = sync.Pool{New: func() any { return new([nonceLen]byte) }}
