package identity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NodeAddr is where a node may be found: through a relay, at direct addresses,
// or both. The zero Relay is none.
type NodeAddr struct {
	ID     NodeID
	Relay  RelayURL
	Direct []netip.AddrPort
}

// ErrBadNodeAddr is wrapped by errors about bytes or text that hold no NodeAddr.
var ErrBadNodeAddr = errors.New("not a node address")

// Limits of the direct addresses of one NodeAddr: so many are kept (S9), and so
// many may stand in the bytes, as a host full of containers has more.
const (
	maxDirect     = 64
	maxDirectRead = 1024
)

// IsEmpty reports whether a holds neither relay nor direct address.
func (a NodeAddr) IsEmpty() bool { return a.Relay.IsZero() && len(a.Direct) == 0 }

// AppendNodeAddr appends the bytes of a NodeAddr in iroh-net's postcard form:
//
//	NodeID 32 │ 0, or 1 │ varint length │ URL text │ varint count │ addresses
//	address: 0 │ IPv4 4 │ varint port, or 1 │ IPv6 16 │ varint port
//
// Varints are LEB128. Addresses are written in order, IPv4 first, without
// duplicates; addresses that are not valid are left out.
func AppendNodeAddr(dst []byte, a NodeAddr) []byte {
	dst = append(dst, a.ID[:]...)
	if a.Relay.IsZero() {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1)
		dst = binary.AppendUvarint(dst, uint64(len(a.Relay.text)))
		dst = append(dst, a.Relay.text...)
	}
	direct := sortedAddrs(a.Direct)
	dst = binary.AppendUvarint(dst, uint64(len(direct)))
	for _, addr := range direct {
		if addr.Addr().Is4() {
			dst = append(dst, 0)
		} else {
			dst = append(dst, 1)
		}
		dst = append(dst, addr.Addr().AsSlice()...)
		dst = binary.AppendUvarint(dst, uint64(addr.Port()))
	}
	return dst
}

// sortedAddrs returns the valid addresses once each, in their order: without
// zones, which mean nothing elsewhere, and mapped IPv4 as the IPv4 it is.
func sortedAddrs(addrs []netip.AddrPort) []netip.AddrPort {
	sorted := make([]netip.AddrPort, 0, len(addrs))
	for _, addr := range addrs {
		if addr.Addr().IsValid() {
			sorted = append(sorted, netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port()))
		}
	}
	slices.SortFunc(sorted, netip.AddrPort.Compare)
	return slices.Compact(sorted)
}

// ParseNodeAddr reads what AppendNodeAddr writes. Bytes after it are ignored,
// as iroh does, and of the direct addresses the first 64 are kept. Errors wrap
// ErrBadNodeAddr.
func ParseNodeAddr(b []byte) (NodeAddr, error) {
	r := reader{rest: b}
	var a NodeAddr
	id, err := NodeIDFromBytes(r.take(32))
	if err != nil {
		return NodeAddr{}, fmt.Errorf("%w: %w", ErrBadNodeAddr, err)
	}
	a.ID = id
	switch r.byte() {
	case 0:
	case 1:
		text := r.take(r.varint(maxRelayURL))
		if r.failed {
			break
		}
		if a.Relay, err = ParseRelayURL(string(text)); err != nil {
			return NodeAddr{}, fmt.Errorf("%w: %w", ErrBadNodeAddr, err)
		}
	default:
		r.failed = true
	}
	for range r.varint(maxDirectRead) {
		a.Direct = append(a.Direct, r.addr())
	}
	if r.failed {
		return NodeAddr{}, fmt.Errorf("%w: cut short or malformed", ErrBadNodeAddr)
	}
	direct := sortedAddrs(a.Direct)
	a.Direct = direct[:min(len(direct), maxDirect)]
	return a, nil
}

// reader takes fields off bytes and remembers whether one was missing.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n > len(r.rest) {
		r.failed = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// varint reads a LEB128 number that may be no larger than limit.
func (r *reader) varint(limit uint64) int {
	v, n := binary.Uvarint(r.rest)
	if r.failed || n <= 0 || v > limit {
		r.failed = true
		return 0
	}
	r.rest = r.rest[n:]
	return int(v)
}

func (r *reader) addr() netip.AddrPort {
	var addr netip.Addr
	switch r.byte() {
	case 0:
		addr, _ = netip.AddrFromSlice(r.take(4))
	case 1:
		addr, _ = netip.AddrFromSlice(r.take(16))
	default:
		r.failed = true
	}
	return netip.AddrPortFrom(addr, uint16(r.varint(0xffff)))
}

// ticketPrefix begins the text of a node ticket; it is case-sensitive.
const ticketPrefix = "node"

// FormatTicket returns the NodeTicket text of an address, as iroh-net has it:
// "node" and the base32 of a zero byte and the NodeAddr.
func FormatTicket(a NodeAddr) string {
	return ticketPrefix + encoding32.EncodeToString(AppendNodeAddr([]byte{0}, a))
}

// ParseTicket reads a NodeTicket; after the prefix either case will do. Errors
// wrap ErrBadNodeAddr.
func ParseTicket(s string) (NodeAddr, error) {
	text, ok := strings.CutPrefix(s, ticketPrefix)
	if !ok {
		return NodeAddr{}, fmt.Errorf("%w: a ticket begins with %q", ErrBadNodeAddr, ticketPrefix)
	}
	b, err := parseBase32(text)
	if err != nil {
		return NodeAddr{}, fmt.Errorf("%w: %w", ErrBadNodeAddr, err)
	}
	if len(b) == 0 || b[0] != 0 {
		return NodeAddr{}, fmt.Errorf("%w: a ticket of an unknown kind", ErrBadNodeAddr)
	}
	return ParseNodeAddr(b[1:])
}
