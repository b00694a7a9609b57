package pkarr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// Sizes in bytes.
const (
	signatureLen = 64
	headLen      = signatureLen + 8 // of a payload, before the DNS message

	// MaxMessage bounds the DNS message of a packet (BEP 44), MaxPayload a payload.
	MaxMessage = 1000
	MaxPayload = headLen + MaxMessage
	// dnsHeaderLen is the least that a DNS message has (RFC 1035 4.1.1).
	dnsHeaderLen = 12
)

// ttl is for how many seconds records may be kept by who resolves them.
const ttl = 30

// Errors about packets.
var (
	ErrBadPacket    = errors.New("not a pkarr packet")
	ErrBadSignature = errors.New("the pkarr packet has a wrong signature")
	ErrTooLong      = fmt.Errorf("%w: it is longer than %d bytes", ErrBadPacket, MaxPayload)
)

// Packet is a signed statement of one node. It is made by [Signer], [Parse] or [Restore],
// and its signature is right.
type Packet struct {
	id      identity.NodeID
	payload []byte
}

// Parse checks a payload that is said to be of a node:
//
//	signature 64 │ timestamp u64, big endian │ DNS message, 12 to 1000 bytes
//
// The error wraps ErrBadPacket or ErrBadSignature. The packet keeps payload.
func Parse(id identity.NodeID, payload []byte) (Packet, error) {
	p, err := Restore(id, payload)
	if err != nil {
		return Packet{}, err
	}
	if !id.Verify(identity.PkarrMessage(p.Timestamp(), p.Message()), payload[:signatureLen]) {
		return Packet{}, ErrBadSignature
	}
	if err := new(dns.Msg).Unpack(p.Message()); err != nil {
		return Packet{}, fmt.Errorf("%w: its DNS message: %w", ErrBadPacket, err)
	}
	return p, nil
}

// Restore returns a packet that Parse took before, from a place that keeps it as it was:
// the signature is not checked again.
func Restore(id identity.NodeID, payload []byte) (Packet, error) {
	switch {
	case len(payload) > MaxPayload:
		return Packet{}, ErrTooLong
	case len(payload) < headLen+dnsHeaderLen:
		return Packet{}, fmt.Errorf("%w: it has %d bytes", ErrBadPacket, len(payload))
	}
	return Packet{id: id, payload: payload}, nil
}

// ID returns the node that signed the packet.
func (p Packet) ID() identity.NodeID { return p.id }

// Payload returns the bytes of the packet without the key. They must not be changed.
func (p Packet) Payload() []byte { return p.payload }

// Timestamp returns when the packet was signed, in microseconds since 1970, by the clock
// of the node. Of two packets the later one counts.
func (p Packet) Timestamp() uint64 { return binary.BigEndian.Uint64(p.payload[signatureLen:]) }

// Time returns Timestamp as a time.
func (p Packet) Time() time.Time { return timeOf(p.Timestamp()) }

// timeOf turns microseconds into a time; what no time can hold becomes the last one.
func timeOf(timestamp uint64) time.Time {
	const last = 1 << 62
	return time.UnixMicro(int64(min(timestamp, last)))
}

// Signature returns the 64 bytes of the signature. They must not be changed.
func (p Packet) Signature() []byte { return p.payload[:signatureLen] }

// Message returns the DNS message that was signed. It must not be changed.
func (p Packet) Message() []byte { return p.payload[headLen:] }

// NewerThan reports whether p counts and not the other: it is later, or, if both are of
// one time, its message is the larger one in the order of bytes.
func (p Packet) NewerThan(other Packet) bool {
	if a, b := p.Timestamp(), other.Timestamp(); a != b {
		return a > b
	}
	return string(p.Message()) > string(other.Message())
}

// Records returns the DNS records of the packet, with the names that the node gave them:
// the last label is its z-base-32 name.
func (p Packet) Records() []dns.RR {
	var m dns.Msg
	if m.Unpack(p.Message()) != nil {
		return nil // Parse took it
	}
	return m.Answer
}

// Addr returns where the node says it is.
func (p Packet) Addr() identity.NodeAddr {
	owner := name(p.id)
	var texts []string
	for _, rr := range p.Records() {
		if txt, ok := rr.(*dns.TXT); ok && strings.EqualFold(txt.Hdr.Name, owner) {
			texts = append(texts, strings.Join(txt.Txt, ""))
		}
	}
	return discovery.ParseRecords(p.id, texts)
}

// name is the owner of a node's records in its packets.
func name(id identity.NodeID) string { return discovery.Label + "." + id.Z32() + "." }

// sign makes the packet of a node as of a timestamp. Addresses that do not fit are left
// out, from the end.
func sign(key *identity.SecretKey, timestamp uint64, addr identity.NodeAddr) (Packet, error) {
	message, err := encode(key.NodeID(), addr)
	for ; len(message) > MaxMessage && len(addr.Direct) > 0; message, err = encode(key.NodeID(), addr) {
		addr.Direct = addr.Direct[:len(addr.Direct)-1]
	}
	if err != nil {
		return Packet{}, err
	}
	if len(message) > MaxMessage {
		return Packet{}, ErrTooLong
	}
	return Packet{id: key.NodeID(), payload: Payload(key.SignPkarr(timestamp, message), timestamp, message)}, nil
}

// Payload puts the parts of a packet together, for Parse. A signature that has not 64 bytes
// makes one that Parse refuses.
func Payload(signature []byte, timestamp uint64, message []byte) []byte {
	if len(signature) != signatureLen {
		return nil
	}
	payload := binary.BigEndian.AppendUint64(append(make([]byte, 0, headLen+len(message)), signature...), timestamp)
	return append(payload, message...)
}

// encode writes the DNS message of a packet.
func encode(id identity.NodeID, addr identity.NodeAddr) ([]byte, error) {
	m := dns.Msg{Compress: true}
	m.Response = true
	for _, text := range discovery.Records(addr) {
		if len(text) > 255 {
			continue // no string of DNS holds it
		}
		m.Answer = append(m.Answer, &dns.TXT{
			Hdr: dns.RR_Header{Name: name(id), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}, Txt: []string{text},
		})
	}
	return m.Pack()
}
