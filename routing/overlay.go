package routing

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"github.com/nodetun/nodetun/identity"
)

const (
	hashLabelV6 = "nodetun-ipv6-v1"
	hashLabelV4 = "nodetun-ipv4-v1"
)

// prefixBytes is fd6e:6f64:6574, "fd" followed by "nodet".
var prefixBytes = [6]byte{0xfd, 'n', 'o', 'd', 'e', 't'}

// Prefix6 returns the IPv6 prefix of every overlay address,
// fd6e:6f64:6574::/48.
func Prefix6() netip.Prefix {
	var a [16]byte
	copy(a[:], prefixBytes[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 8*len(prefixBytes))
}

// OverlayV6 returns the overlay IPv6 address of a node. It is the same on
// every machine.
func OverlayV6(id identity.NodeID) netip.Addr {
	sum := labelled(hashLabelV6, id)
	var a [16]byte
	n := copy(a[:], prefixBytes[:])
	copy(a[n:], sum[:])
	return netip.AddrFrom16(a)
}

// hashV4 is the number from which the preferred host part of a node follows.
func hashV4(id identity.NodeID) uint32 {
	sum := labelled(hashLabelV4, id)
	return binary.BigEndian.Uint32(sum[:])
}

func labelled(label string, id identity.NodeID) [sha256.Size]byte {
	buf := make([]byte, 0, 64)
	buf = append(buf, label...)
	buf = append(buf, id[:]...)
	return sha256.Sum256(buf)
}
