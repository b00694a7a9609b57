package endpoint

import (
	"crypto/rand"

	"github.com/quic-go/quic-go"
)

// connIDLen is the length of our connection ids in bytes. With 17, the longest
// datagram that SendDatagram takes fills a packet to the last byte, so that
// equal packets leave in one send; and packets to a node that restarted are
// long enough to draw a stateless reset.
const connIDLen = 17

// discoMagic1 is the second byte of a disco packet. The first one, 0x54, looks
// like a QUIC short header, after which the connection id begins.
const discoMagic1 = 0x53

// connIDs makes random connection ids of which none makes a short header look
// like a disco packet.
type connIDs struct{}

var _ quic.ConnectionIDGenerator = connIDs{}

func (connIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	var b [connIDLen]byte
	rand.Read(b[:])
	for b[0] == discoMagic1 {
		rand.Read(b[:1])
	}
	return quic.ConnectionIDFromBytes(b[:]), nil
}

func (connIDs) ConnectionIDLen() int { return connIDLen }
