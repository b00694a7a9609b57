package dnsmap

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	arpa4 = "in-addr.arpa."
	arpa6 = "ip6.arpa."
)

// reverseZones lists the zones below which the PTR names of a prefix lie, each
// with its final dot. A prefix that does not end at a label gives several.
func reverseZones(p netip.Prefix) []string {
	p = p.Masked()
	step := 8
	if p.Addr().Is6() {
		step = 4
	}
	labels := (p.Bits() + step - 1) / step
	var zones []string
	sub := netip.PrefixFrom(p.Addr(), labels*step)
	for range 1 << (labels*step - p.Bits()) {
		zones = append(zones, reverseName(sub.Addr(), labels))
		sub = netip.PrefixFrom(lastAddr(sub).Next(), sub.Bits())
	}
	return zones
}

// reverseName is the PTR name of the first labels of an address.
func reverseName(a netip.Addr, labels int) string {
	parts := addrLabels(a)[:labels]
	slices.Reverse(parts)
	suffix := arpa6
	if a.Is4() {
		suffix = arpa4
	}
	return strings.Join(append(parts, suffix), ".")
}

// addrLabels splits an address as reverse names do: bytes or nibbles, the most
// significant first.
func addrLabels(a netip.Addr) []string {
	if a.Is4() {
		return strings.Split(a.String(), ".")
	}
	b := a.As16()
	return strings.Split(hex.EncodeToString(b[:]), "")
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// parseReverse reads the labels in front of ip6.arpa or in-addr.arpa, in the
// order of the name. complete is false when they are the beginning of an
// address only; ok is false when they are none.
func parseReverse(labels []string, v4 bool) (a netip.Addr, complete, ok bool) {
	labels = slices.Clone(labels)
	slices.Reverse(labels)
	if v4 {
		return parseReverse4(labels)
	}
	return parseReverse6(labels)
}

func parseReverse4(labels []string) (a netip.Addr, complete, ok bool) {
	var b [4]byte
	if len(labels) > len(b) {
		return a, false, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 10, 8)
		if err != nil || strconv.FormatUint(n, 10) != l {
			return a, false, false
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom4(b), len(labels) == len(b), true
}

func parseReverse6(labels []string) (a netip.Addr, complete, ok bool) {
	var b [16]byte
	if len(labels) > 2*len(b) {
		return a, false, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 16, 4)
		if err != nil || len(l) != 1 {
			return a, false, false
		}
		b[i/2] |= byte(n) << (4 * (1 - i%2))
	}
	return netip.AddrFrom16(b), len(labels) == 2*len(b), true
}
