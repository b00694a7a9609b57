package netcheck

import (
	"errors"
	"net"
	"net/netip"

	"github.com/pion/stun/v2"
)

// errSTUN says that a packet is no answer to a binding request.
var errSTUN = errors.New("not a STUN answer")

// txID names a request.
type txID = [stun.TransactionIDSize]byte

// bindingRequest makes a binding request with a FINGERPRINT (RFC 8489 14.7), as
// iroh's relays want it: 28 bytes.
func bindingRequest() (txID, []byte, error) {
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.Fingerprint)
	if err != nil {
		return txID{}, nil, err
	}
	return m.TransactionID, m.Raw, nil
}

// parseSTUN reads a STUN packet. For a success response it returns the address
// that the server saw; for a request, such as one of ours that a router sent
// back, request is true.
func parseSTUN(b []byte) (tx txID, mapped netip.AddrPort, request bool, err error) {
	if len(b) > maxSTUN {
		return tx, mapped, false, errSTUN
	}
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if err := m.Decode(); err != nil {
		return tx, mapped, false, errSTUN
	}
	switch m.Type {
	case stun.BindingRequest:
		return m.TransactionID, mapped, true, nil
	case stun.BindingSuccess:
	default:
		return tx, mapped, false, errSTUN
	}
	mapped, ok := mappedAddress(m)
	if !ok {
		return tx, mapped, false, errSTUN
	}
	return m.TransactionID, mapped, false, nil
}

// maxSTUN is the longest packet that is looked at.
const maxSTUN = 1280

// mappedAddress prefers XOR-MAPPED-ADDRESS (RFC 8489 14.2).
func mappedAddress(m *stun.Message) (netip.AddrPort, bool) {
	var xor stun.XORMappedAddress
	if whole(m, stun.AttrXORMappedAddress) && xor.GetFrom(m) == nil {
		return addrPort(xor.IP, xor.Port)
	}
	var plain stun.MappedAddress
	if whole(m, stun.AttrMappedAddress) && plain.GetFrom(m) == nil {
		return addrPort(plain.IP, plain.Port)
	}
	return netip.AddrPort{}, false
}

// whole says that an address attribute has the length that its family needs
// (RFC 8489 14.1).
func whole(m *stun.Message, k stun.AttrType) bool {
	v, err := m.Get(k)
	return err == nil && (len(v) == 8 && v[1] == 1 || len(v) == 20 && v[1] == 2)
}

// addrPort refuses what nobody can have: a server that lies in this way would
// have us advertise nonsense.
func addrPort(ip net.IP, port int) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	if !ok || port <= 0 || port > 65535 || !a.IsGlobalUnicast() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, uint16(port)), true
}

// peekTx returns the transaction id of what may be a STUN packet.
func peekTx(b []byte) (tx txID, ok bool) {
	if len(b) < headerLen || len(b) > maxSTUN {
		return tx, false
	}
	copy(tx[:], b[8:headerLen])
	return tx, true
}

// headerLen is that of every STUN packet (RFC 8489 5).
const headerLen = 20
