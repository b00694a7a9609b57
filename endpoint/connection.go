package endpoint

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// The streams of a connection are quic-go's. Writes and reads honour
// deadlines, Close ends the send side, CancelRead and CancelWrite reset.
type (
	Stream        = quic.Stream
	SendStream    = quic.SendStream
	ReceiveStream = quic.ReceiveStream
	// DatagramTooLargeError is what SendDatagram returns for a datagram that
	// the path does not take now; it holds the largest size that it does.
	DatagramTooLargeError = quic.DatagramTooLargeError
)

// Connection is a QUIC connection with one node, whose identity was proved.
// Errors of its methods and of its streams are quic-go's; Cause explains those
// that come from the end of the connection.
type Connection struct {
	quic    *quic.Conn
	socket  *magicsock.Conn
	remote  identity.NodeID
	alpn    string
	dialler bool

	session bool // of a protocol of Config.SessionALPNs: the peer is our own kind

	// What follows is the renewal's that is under way.
	renewing atomic.Bool
	path     *quic.Path // that the last one moved to
	marked   bool       // it is the marked one
}

// RemoteNodeID returns the node that the handshake proved.
func (c *Connection) RemoteNodeID() identity.NodeID { return c.remote }

// ALPN returns the protocol that was agreed on.
func (c *Connection) ALPN() string { return c.alpn }

// Dialler reports whether this side dialled.
func (c *Connection) Dialler() bool { return c.dialler }

// OpenStream opens a bidirectional stream, waiting while the peer admits no
// more. The peer learns of the stream with the first byte written.
func (c *Connection) OpenStream(ctx context.Context) (*Stream, error) {
	return c.quic.OpenStreamSync(ctx)
}

// OpenUniStream opens a stream in one direction, as OpenStream does.
func (c *Connection) OpenUniStream(ctx context.Context) (*SendStream, error) {
	return c.quic.OpenUniStreamSync(ctx)
}

// AcceptStream waits for the peer's next bidirectional stream.
func (c *Connection) AcceptStream(ctx context.Context) (*Stream, error) {
	return c.quic.AcceptStream(ctx)
}

// AcceptUniStream waits for the peer's next stream in one direction.
func (c *Connection) AcceptUniStream(ctx context.Context) (*ReceiveStream, error) {
	return c.quic.AcceptUniStream(ctx)
}

// SendDatagram sends b unreliably; b is copied. It blocks while many datagrams
// wait. One that is too large is a *DatagramTooLargeError, at once.
func (c *Connection) SendDatagram(b []byte) error { return c.quic.SendDatagram(b) }

// tooLarge is more than any packet of QUIC carries (1452 bytes).
const tooLarge = 2048

// MaxDatagramSize returns the size in bytes of the largest datagram that
// SendDatagram takes now; it grows while QUIC finds out about the path. Zero
// means that the peer takes none.
func (c *Connection) MaxDatagramSize() int {
	var probe [tooLarge]byte
	var limit *DatagramTooLargeError
	if !errors.As(c.quic.SendDatagram(probe[:]), &limit) { // never sent
		return 0
	}
	return int(limit.MaxDatagramPayloadSize)
}

// ReceiveDatagram waits for a datagram, which is the caller's.
func (c *Connection) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	return c.quic.ReceiveDatagram(ctx)
}

// Close ends the connection and everything on it; the peer is told code and
// reason. The first call counts.
func (c *Connection) Close(code uint64, reason string) {
	_ = c.quic.CloseWithError(quic.ApplicationErrorCode(code), reason) // never fails
}

// Context ends when the connection does.
func (c *Connection) Context() context.Context { return c.quic.Context() }

// CloseCause returns why the connection ended, a CloseError as a rule; nil while
// it is up.
func (c *Connection) CloseCause() error {
	if c.quic.Context().Err() == nil {
		return nil
	}
	return typed(context.Cause(c.quic.Context()))
}

// ExportKeyingMaterial derives length bytes from the connection's TLS secrets
// (RFC 8446 7.5).
func (c *Connection) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	state := c.quic.ConnectionState().TLS
	return state.ExportKeyingMaterial(label, context, length)
}

// RTT returns QUIC's smoothed round-trip time.
func (c *Connection) RTT() time.Duration { return c.quic.ConnectionStats().SmoothedRTT }

// Stats are counters of a connection.
type Stats struct {
	PacketsSent, PacketsReceived, PacketsLost uint64
	BytesSent, BytesReceived                  uint64
	// CongestionWindow is in bytes.
	CongestionWindow uint64
}

// Stats returns the connection's counters.
func (c *Connection) Stats() Stats {
	s := c.quic.ConnectionStats()
	return Stats{
		PacketsSent: s.PacketsSent, PacketsReceived: s.PacketsReceived, PacketsLost: s.PacketsLost,
		BytesSent: s.BytesSent, BytesReceived: s.BytesReceived, CongestionWindow: s.CongestionWindow,
	}
}

// Path returns what the socket knows of the way to the peer.
func (c *Connection) Path() (magicsock.RemoteInfo, bool) { return c.socket.Remote(c.remote) }

// PathText returns the way to the peer in the words of iroh-net: direct(a),
// relay(u), mixed(udp: a, relay: u) or none.
func (c *Connection) PathText() string {
	info, _ := c.Path()
	return nodemap.PathText(info.Conn, nodemap.Route{UDP: info.UDP, Relay: info.Relay})
}
