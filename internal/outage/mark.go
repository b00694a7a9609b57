package outage

// The mark of a packet on the second path is a short header whose fixed bit is clear (RFC
// 9000 17.3.1). Nodes that do not know it drop such packets, so that the probe of the
// path fails and nothing else happens.
const fixedBit = 0x40

// minQUIC is the length of the shortest QUIC packet in bytes (RFC 9000 10.3).
const minQUIC = 21

// Mark marks the packets of a batch of QUIC, each of seg bytes, the last perhaps
// shorter. Long headers stay as they are.
func Mark(b []byte, seg int) {
	for ; len(b) > 0; b = b[min(seg, len(b)):] {
		if b[0]&0xc0 == fixedBit { // a short header
			b[0] &^= fixedBit
		}
	}
}

// Marked says that a packet may be a marked one: its first byte is below 0x20, as the
// spin bit of quic-go is never set, and it is long enough.
func Marked(b []byte) bool { return len(b) >= minQUIC && b[0] < 0x20 }

// Unmark takes the mark off a packet.
func Unmark(b []byte) { b[0] |= fixedBit }
