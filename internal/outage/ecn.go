package outage

// ECN keeps QUIC's use of ECN from ending where a connection looks at another path. quic-go
// sends those packets without a mark, counts them among those with one, and gives ECN up for
// good when the other side reports one too few (RFC 9000 13.4.2.1). So they get the mark. That
// some packets with it were lost, or came with CE, makes up for those that it does not know
// of; without, ECN ends as it did. The zero value has sent nothing.
type ECN struct {
	on   bool   // the last packet by path had the mark
	path uint16 // the one in use
}

// The ECN fields of RFC 3168 that QUIC sends.
const (
	notECT = 0
	ect0   = 2
)

// Mark returns the ECN field with which a batch of QUIC is to leave by a path, any number,
// given that of QUIC.
func (e *ECN) Mark(b []byte, path uint16, ecn uint8) uint8 {
	const longHeader = 0x80
	switch {
	case len(b) == 0 || b[0]&longHeader != 0: // packets of a handshake are counted apart
	case ecn == ect0:
		e.on, e.path = true, path
	case path == e.path: // QUIC does without
		e.on = false
	case e.on && ecn == notECT:
		return ect0
	}
	return ecn
}
