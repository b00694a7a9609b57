package disco

import (
	"encoding/binary"
	"net/netip"

	"github.com/nodetun/nodetun/identity"
)

// TxID pairs a pong with its ping.
type TxID [12]byte

// Message is a *Ping, *Pong or *CallMeMaybe.
type Message interface {
	// append appends the plaintext.
	append(dst []byte) []byte
}

// Types of messages and the only version.
const (
	typePing        = 1
	typePong        = 2
	typeCallMeMaybe = 3
	version         = 0
)

// Kinds of a pong's source.
const (
	sourceAddr  = 0
	sourceRelay = 1
)

const (
	addrLen  = 18
	pingLen  = len(TxID{}) + 32
	plainLen = 2 // type and version
	// PingLen is the length of a packet with an unpadded ping.
	PingLen = Overhead + plainLen + pingLen
)

// MaxAddrs bounds the addresses taken from one call-me-maybe (S9).
const MaxAddrs = 32

// Ping asks for a Pong.
type Ping struct {
	TxID TxID
	// Node is the sender once more; receivers do not look at it.
	Node identity.NodeID
	// Pad is the number of zero bytes after the payload, which receivers skip:
	// a padded ping shows that the path takes packets of that size.
	Pad int
}

// Pong answers a Ping and tells its sender where it came from: exactly one of
// Src and Relay is set.
type Pong struct {
	TxID  TxID
	Src   netip.AddrPort
	Relay identity.RelayURL
}

// CallMeMaybe asks the receiver to ping these addresses of the sender. It
// travels through relays only.
type CallMeMaybe struct {
	Addrs []netip.AddrPort
}

func (p *Ping) append(dst []byte) []byte {
	dst = append(dst, typePing, version)
	dst = append(dst, p.TxID[:]...)
	dst = append(dst, p.Node[:]...)
	return append(dst, make([]byte, max(p.Pad, 0))...)
}

func (p *Pong) append(dst []byte) []byte {
	dst = append(dst, typePong, version)
	dst = append(dst, p.TxID[:]...)
	if !p.Relay.IsZero() {
		dst = append(dst, sourceRelay)
		return append(dst, p.Relay.String()...)
	}
	dst = append(dst, sourceAddr)
	return appendAddr(dst, p.Src)
}

func (c *CallMeMaybe) append(dst []byte) []byte {
	dst = append(dst, typeCallMeMaybe, version)
	for _, addr := range c.Addrs {
		dst = appendAddr(dst, addr)
	}
	return dst
}

func appendAddr(dst []byte, a netip.AddrPort) []byte {
	ip := a.Addr().As16()
	dst = append(dst, ip[:]...)
	return binary.LittleEndian.AppendUint16(dst, a.Port())
}

// parseAddr reads 18 bytes.
func parseAddr(b []byte) netip.AddrPort {
	ip := netip.AddrFrom16([16]byte(b)).Unmap()
	return netip.AddrPortFrom(ip, binary.LittleEndian.Uint16(b[16:]))
}

// parseMessage reads a plaintext.
func parseMessage(b []byte) (Message, error) {
	if len(b) < plainLen {
		return nil, ErrMalformed
	}
	kind, v, payload := b[0], b[1], b[plainLen:]
	if v != version {
		return nil, ErrUnknownType
	}
	switch kind {
	case typePing:
		return parsePing(payload)
	case typePong:
		return parsePong(payload)
	case typeCallMeMaybe:
		return parseCallMeMaybe(payload)
	default:
		return nil, ErrUnknownType
	}
}

func parsePing(b []byte) (Message, error) {
	if len(b) < pingLen {
		return nil, ErrMalformed
	}
	return &Ping{TxID: TxID(b), Node: identity.NodeID(b[len(TxID{}):]), Pad: len(b) - pingLen}, nil
}

func parsePong(b []byte) (Message, error) {
	if len(b) < len(TxID{})+1 {
		return nil, ErrMalformed
	}
	pong := &Pong{TxID: TxID(b)}
	kind, rest := b[len(TxID{})], b[len(TxID{})+1:]
	switch {
	case kind == sourceAddr && len(rest) == addrLen:
		pong.Src = parseAddr(rest)
		return pong, nil
	case kind == sourceRelay:
		relay, err := identity.ParseRelayURL(string(rest))
		if err != nil {
			return nil, ErrMalformed
		}
		pong.Relay = relay
		return pong, nil
	default:
		return nil, ErrMalformed
	}
}

func parseCallMeMaybe(b []byte) (Message, error) {
	if len(b)%addrLen != 0 {
		return nil, ErrMalformed
	}
	n := min(len(b)/addrLen, MaxAddrs)
	call := &CallMeMaybe{Addrs: make([]netip.AddrPort, 0, n)}
	for i := range n {
		call.Addrs = append(call.Addrs, parseAddr(b[i*addrLen:]))
	}
	return call, nil
}
