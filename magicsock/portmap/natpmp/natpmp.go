package natpmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Ports of the protocol, which PCP took over.
const (
	// ServerPort is where routers listen.
	ServerPort = 5351
	// ClientPort is where hosts hear announcements, sent to AllHosts.
	ClientPort = 5350
)

// MaxSize is enough for any packet of the protocol, and of PCP (RFC 6887 7).
const MaxSize = 1100

// AllHosts is the group to which routers announce (RFC 6886 3.2.1).
func AllHosts() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 1}), ClientPort)
}

const (
	// OpAddress asks for the external address.
	OpAddress = 0
	// OpMapUDP asks for a mapping of a UDP port.
	OpMapUDP = 1
	// OpMapTCP asks for a mapping of a TCP port.
	OpMapTCP = 2

	version  = 0
	isAnswer = 0x80

	mapSize        = 12
	headSize       = 8
	addrAnswerSize = 12
	mapAnswerSize  = 16
)

// Errors of the decoders.
var (
	// ErrShort is a packet that ends too early.
	ErrShort = errors.New("nat-pmp: packet is too short")
	// ErrVersion is a packet of another version, PCP for one.
	ErrVersion = errors.New("nat-pmp: not version 0")
	// ErrOpcode is a packet that is not of the kind that was to be read.
	ErrOpcode = errors.New("nat-pmp: unexpected opcode")
)

// Result is a router's verdict, RFC 6886 3.5.
type Result uint16

// The results that are defined.
const (
	Success            Result = 0
	UnsupportedVersion Result = 1
	NotAuthorized      Result = 2
	NetworkFailure     Result = 3
	OutOfResources     Result = 4
	UnsupportedOpcode  Result = 5
)

// Error makes a result other than Success an error.
func (r Result) Error() string {
	switch r {
	case Success:
		return "success"
	case UnsupportedVersion:
		return "unsupported version"
	case NotAuthorized:
		return "not authorized"
	case NetworkFailure:
		return "network failure"
	case OutOfResources:
		return "out of resources"
	case UnsupportedOpcode:
		return "unsupported opcode"
	}
	return fmt.Sprintf("result %d", uint16(r))
}

// MapRequest asks for a mapping, or ends it with a Lifetime of 0.
type MapRequest struct {
	TCP      bool
	Internal uint16
	// External is the port that is asked for; 0 is any.
	External uint16
	// Lifetime is sent in whole seconds.
	Lifetime time.Duration
}

// Answer is what a router says.
type Answer struct {
	// Op is one of OpAddress, OpMapUDP and OpMapTCP.
	Op     uint8
	Result Result
	// Epoch is how long the router remembers, in whole seconds.
	Epoch time.Duration
	// Addr is the external address; of OpAddress with Success alone.
	Addr netip.Addr
	// Internal, External and Lifetime are those of the mapping; of OpMapUDP and
	// OpMapTCP with Success alone.
	Internal, External uint16
	Lifetime           time.Duration
}

// AppendAddressRequest appends a question for the external address.
func AppendAddressRequest(b []byte) []byte { return append(b, version, OpAddress) }

// AppendMapRequest appends a question for a mapping.
func AppendMapRequest(b []byte, r MapRequest) []byte {
	op := byte(OpMapUDP)
	if r.TCP {
		op = OpMapTCP
	}
	b = append(b, version, op, 0, 0)
	b = binary.BigEndian.AppendUint16(b, r.Internal)
	b = binary.BigEndian.AppendUint16(b, r.External)
	return appendSeconds(b, r.Lifetime)
}

// ParseRequest reads a question: its opcode, and the mapping of OpMapUDP and
// OpMapTCP. It is for routers.
func ParseRequest(b []byte) (op uint8, r MapRequest, err error) {
	switch {
	case len(b) < 2:
		return 0, r, ErrShort
	case b[0] != version:
		return 0, r, ErrVersion
	}
	switch op = b[1]; op {
	case OpAddress:
		return op, r, nil
	case OpMapUDP, OpMapTCP:
		if len(b) < mapSize {
			return op, r, ErrShort
		}
		return op, MapRequest{
			TCP: op == OpMapTCP, Internal: binary.BigEndian.Uint16(b[4:]),
			External: binary.BigEndian.Uint16(b[6:]), Lifetime: seconds(b[8:]),
		}, nil
	}
	return op, r, ErrOpcode
}

// AppendAnswer appends an answer. It is for routers.
func AppendAnswer(b []byte, a Answer) []byte {
	b = append(b, version, a.Op|isAnswer)
	b = binary.BigEndian.AppendUint16(b, uint16(a.Result))
	b = appendSeconds(b, a.Epoch)
	switch a.Op {
	case OpAddress:
		addr := [4]byte{}
		if a.Addr.Is4() {
			addr = a.Addr.As4()
		}
		b = append(b, addr[:]...)
	case OpMapUDP, OpMapTCP:
		b = binary.BigEndian.AppendUint16(b, a.Internal)
		b = binary.BigEndian.AppendUint16(b, a.External)
		b = appendSeconds(b, a.Lifetime)
	}
	return b
}

// ParseAnswer reads an answer or an announcement. It keeps nothing of b.
func ParseAnswer(b []byte) (Answer, error) {
	var a Answer
	switch {
	case len(b) < headSize:
		return a, ErrShort
	case b[0] != version:
		return a, ErrVersion
	case b[1]&isAnswer == 0:
		return a, ErrOpcode
	}
	a.Op = b[1] &^ isAnswer
	a.Result = Result(binary.BigEndian.Uint16(b[2:]))
	a.Epoch = seconds(b[4:])
	if a.Op > OpMapTCP {
		return a, ErrOpcode
	}
	if a.Result != Success {
		return a, nil
	}
	if a.Op == OpAddress {
		if len(b) < addrAnswerSize {
			return a, ErrShort
		}
		a.Addr = netip.AddrFrom4([4]byte(b[8:12]))
		return a, nil
	}
	if len(b) < mapAnswerSize {
		return a, ErrShort
	}
	a.Internal = binary.BigEndian.Uint16(b[8:])
	a.External = binary.BigEndian.Uint16(b[10:])
	a.Lifetime = seconds(b[12:])
	return a, nil
}

func appendSeconds(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(min(max(d, 0)/time.Second, 1<<32-1)))
}

func seconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}
