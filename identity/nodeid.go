package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"filippo.io/edwards25519"
)

// NodeID is a node's Ed25519 public key, 32 bytes of a compressed point
// (RFC 8032 5.1.2). It is comparable; the zero value is no node.
type NodeID [32]byte

// ErrBadNodeID is wrapped by every error about something that is no NodeID.
var ErrBadNodeID = errors.New("not a node id")

// Lengths of the text forms of 32 bytes.
const (
	base32Len = 52
	hexLen    = 64
)

// encoding32 is RFC 4648 base32 in lower case without padding.
var encoding32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// encodingZ is z-base-32, the alphabet of DNS and pkarr names in iroh.
var encodingZ = base32.NewEncoding("ybndrfg8ejkmcpqxot1uwisza345h769").WithPadding(base32.NoPadding)

// ParseNodeID reads the text of a NodeID: 52 characters of base32 or 64 of
// hex, in either case. Errors wrap ErrBadNodeID.
func ParseNodeID(s string) (NodeID, error) {
	b, err := parseKeyText(s)
	if err != nil {
		return NodeID{}, fmt.Errorf("%w: %w", ErrBadNodeID, err)
	}
	return NodeIDFromBytes(b)
}

// parseKeyText reads 32 bytes written as base32 or hex.
func parseKeyText(s string) ([]byte, error) {
	switch len(s) {
	case hexLen:
		b, err := hex.DecodeString(s)
		if err != nil {
			return nil, errors.New("64 characters that are not all hex digits")
		}
		return b, nil
	case base32Len:
		return parseBase32(s)
	default:
		return nil, fmt.Errorf("%d characters, want 52 of base32 or 64 of hex", len(s))
	}
}

// parseBase32 reads base32 in either case; bits that the text has beyond whole
// bytes must be zero, so that one value has one text.
func parseBase32(s string) ([]byte, error) {
	// ToLower would also turn the Kelvin sign into k, and the decoder skips
	// line ends: neither is base32.
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("characters that are not base32")
	}
	lower := strings.ToLower(s)
	b, err := encoding32.DecodeString(lower)
	if err != nil {
		return nil, errors.New("characters that are not base32")
	}
	if encoding32.EncodeToString(b) != lower {
		return nil, errors.New("a last character with bits that mean nothing")
	}
	return b, nil
}

// NodeIDFromBytes checks that the 32 bytes are a point on the curve and not of
// small order: with one of those a signature can be made to fit many
// messages. Errors wrap ErrBadNodeID.
func NodeIDFromBytes(b []byte) (NodeID, error) {
	if len(b) != len(NodeID{}) {
		return NodeID{}, fmt.Errorf("%w: %d bytes, want 32", ErrBadNodeID, len(b))
	}
	point, err := new(edwards25519.Point).SetBytes(b)
	if err != nil {
		return NodeID{}, fmt.Errorf("%w: not a point on the curve", ErrBadNodeID)
	}
	if smallOrder(point) {
		return NodeID{}, fmt.Errorf("%w: a point of small order", ErrBadNodeID)
	}
	return NodeID(b), nil
}

// smallOrder reports whether the point is one of the eight torsion points.
func smallOrder(p *edwards25519.Point) bool {
	return new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1
}

// String returns the canonical text, 52 characters.
func (id NodeID) String() string { return encoding32.EncodeToString(id[:]) }

// Short returns the first 16 characters of String, those of the first 10
// bytes, for people to read.
func (id NodeID) Short() string { return encoding32.EncodeToString(id[:10]) }

// Hex returns 64 lower-case hex digits.
func (id NodeID) Hex() string { return hex.EncodeToString(id[:]) }

// Z32 returns the z-base-32 text, the label of the node in DNS and pkarr.
func (id NodeID) Z32() string { return encodingZ.EncodeToString(id[:]) }

// ParseZ32 reads what Z32 writes. The error wraps ErrBadNodeID.
func ParseZ32(text string) (NodeID, error) {
	b, err := encodingZ.DecodeString(text)
	if err != nil || len(text) != base32Len || encodingZ.EncodeToString(b) != text {
		return NodeID{}, fmt.Errorf("%w: %d characters that are no z-base-32 of 32 bytes", ErrBadNodeID, len(text))
	}
	return NodeIDFromBytes(b)
}

// IsZero reports whether id is no node.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// Compare orders NodeIDs by their bytes, as bytes.Compare does.
func (id NodeID) Compare(other NodeID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText returns the canonical text, empty for the zero NodeID.
func (id NodeID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return []byte{}, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText is ParseNodeID; empty text gives the zero NodeID.
func (id *NodeID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = NodeID{}
		return nil
	}
	parsed, err := ParseNodeID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// LogValue shows the short form in logs.
func (id NodeID) LogValue() slog.Value { return slog.StringValue(id.Short()) }

// Verify reports whether sig is the node's signature of msg. It is strict:
// besides what RFC 8032 asks for, a key or an R of small order is refused, as
// one signature could then fit many messages. It does not rely on id having
// been parsed.
func (id NodeID) Verify(msg, sig []byte) bool {
	if len(sig) != ed25519.SignatureSize || !soundPoint(id[:]) || !soundPoint(sig[:32]) {
		return false
	}
	return ed25519.Verify(id[:], msg, sig)
}

// soundPoint reports whether b is a point of the curve that is not of small
// order.
func soundPoint(b []byte) bool {
	p, err := new(edwards25519.Point).SetBytes(b)
	return err == nil && !smallOrder(p)
}
