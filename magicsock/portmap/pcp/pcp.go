package pcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	// OpAnnounce asks whether the router is there, or tells that it is.
	OpAnnounce = 0
	// OpMap asks for a mapping.
	OpMap = 1

	// Version is the one of RFC 6887.
	Version = 2

	protocolUDP = 17
	isAnswer    = 0x80
	headSize    = 24
	mapSize     = 36
)

// Errors of the decoders.
var (
	// ErrShort is a packet that ends too early.
	ErrShort = errors.New("pcp: packet is too short")
	// ErrVersion is a packet of another version, NAT-PMP for one.
	ErrVersion = errors.New("pcp: not version 2")
	// ErrOpcode is a packet that is not of the kind that was to be read.
	ErrOpcode = errors.New("pcp: unexpected opcode")
	// ErrProtocol is a mapping of something else than UDP over IPv4.
	ErrProtocol = errors.New("pcp: not UDP over IPv4")
)

// Result is a router's verdict, RFC 6887 7.4.
type Result uint8

// The results that are defined.
const (
	Success               Result = 0
	UnsupportedVersion    Result = 1
	NotAuthorized         Result = 2
	MalformedRequest      Result = 3
	UnsupportedOpcode     Result = 4
	UnsupportedOption     Result = 5
	MalformedOption       Result = 6
	NetworkFailure        Result = 7
	NoResources           Result = 8
	UnsupportedProtocol   Result = 9
	UserExceededQuota     Result = 10
	CannotProvideExternal Result = 11
	AddressMismatch       Result = 12
	ExcessiveRemotePeers  Result = 13
)

// Error makes a result other than Success an error.
func (r Result) Error() string {
	names := [...]string{
		"success", "unsupported version", "not authorized", "malformed request", "unsupported opcode",
		"unsupported option", "malformed option", "network failure", "no resources", "unsupported protocol",
		"quota exceeded", "cannot provide external", "address mismatch: another NAT lies in between", "excessive remote peers",
	}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("result %d", uint8(r))
}

// Nonce ties an answer to a question, and a mapping to who may change it.
type Nonce [12]byte

// Map is what is asked of a mapping, and what was granted.
type Map struct {
	Nonce    Nonce
	Internal uint16
	// External is what is asked for or granted. Asked for, the port 0 is any,
	// and the address zero or 0.0.0.0 is.
	External netip.AddrPort
}

// Request is a question.
type Request struct {
	// Op is OpAnnounce or OpMap.
	Op uint8
	// Lifetime is sent in whole seconds; 0 with OpMap ends the mapping.
	Lifetime time.Duration
	// Client is our address. It must be that from which the packet is sent.
	Client netip.Addr
	// Map is that of OpMap.
	Map Map
}

// Answer is what a router says.
type Answer struct {
	Op     uint8
	Result Result
	// Lifetime is that of the mapping; with a result other than Success, how
	// long the same question will get the same answer.
	Lifetime time.Duration
	// Epoch is how long the router remembers, in whole seconds.
	Epoch time.Duration
	// Map is that of OpMap; zero in a short answer with another result than
	// Success.
	Map Map
}

// AppendRequest appends a question.
func AppendRequest(b []byte, r Request) []byte {
	b = append(b, Version, r.Op, 0, 0)
	b = appendSeconds(b, r.Lifetime)
	b = appendAddr(b, r.Client)
	if r.Op == OpMap {
		b = appendMap(b, r.Map)
	}
	return b
}

// ParseRequest reads a question. It is for routers.
func ParseRequest(b []byte) (Request, error) {
	var r Request
	switch {
	case len(b) < 2:
		return r, ErrShort
	case b[0] != Version:
		return r, ErrVersion
	case b[1] > OpMap:
		return r, ErrOpcode
	case len(b) < headSize:
		return r, ErrShort
	}
	r.Op = b[1]
	r.Lifetime = seconds(b[4:])
	var err error
	if r.Client, err = parseAddr(b[8:24]); err != nil {
		return r, err
	}
	if r.Op == OpMap {
		r.Map, err = parseMap(b[headSize:])
	}
	return r, err
}

// AppendAnswer appends an answer. It is for routers.
func AppendAnswer(b []byte, a Answer) []byte {
	b = append(b, Version, a.Op|isAnswer, 0, byte(a.Result))
	b = appendSeconds(b, a.Lifetime)
	b = appendSeconds(b, a.Epoch)
	b = append(b, make([]byte, 12)...)
	if a.Op == OpMap {
		b = appendMap(b, a.Map)
	}
	return b
}

// ParseAnswer reads an answer or an announcement. It keeps nothing of b. A
// router that speaks NAT-PMP alone answers with ErrVersion (RFC 6887 9).
func ParseAnswer(b []byte) (Answer, error) {
	var a Answer
	switch {
	case len(b) < 2:
		return a, ErrShort
	case b[0] != Version:
		return a, ErrVersion
	case b[1]&isAnswer == 0 || b[1]&^isAnswer > OpMap:
		return a, ErrOpcode
	case len(b) < headSize:
		return a, ErrShort
	}
	a.Op = b[1] &^ isAnswer
	a.Result = Result(b[3])
	a.Lifetime = seconds(b[4:])
	a.Epoch = seconds(b[8:])
	if a.Op == OpAnnounce || a.Result != Success && len(b) < headSize+mapSize {
		return a, nil
	}
	var err error
	a.Map, err = parseMap(b[headSize:])
	return a, err
}

func appendMap(b []byte, m Map) []byte {
	b = append(b, m.Nonce[:]...)
	b = append(b, protocolUDP, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, m.Internal)
	b = binary.BigEndian.AppendUint16(b, m.External.Port())
	return appendAddr(b, m.External.Addr())
}

func parseMap(b []byte) (Map, error) {
	var m Map
	switch {
	case len(b) < mapSize:
		return m, ErrShort
	case b[12] != protocolUDP:
		return m, ErrProtocol
	}
	m.Nonce = Nonce(b[:12])
	m.Internal = binary.BigEndian.Uint16(b[16:])
	addr, err := parseAddr(b[20:36])
	m.External = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[18:]))
	return m, err
}

// appendAddr appends an IPv4 address mapped into IPv6; zero becomes 0.0.0.0.
func appendAddr(b []byte, addr netip.Addr) []byte {
	if !addr.Is4() {
		addr = netip.IPv4Unspecified()
	}
	mapped := addr.As16()
	return append(b, mapped[:]...)
}

func parseAddr(b []byte) (netip.Addr, error) {
	addr := netip.AddrFrom16([16]byte(b))
	if !addr.Is4In6() {
		return netip.Addr{}, ErrProtocol
	}
	return addr.Unmap(), nil
}

func appendSeconds(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(min(max(d, 0)/time.Second, 1<<32-1)))
}

func seconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}
