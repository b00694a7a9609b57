package relayclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/iroh1"
)

// transport carries frames of version 3. One goroutine reads, one writes.
type transport interface {
	// Next returns the next frame; the body is valid until the next call.
	Next() (relay.Type, []byte, error)
	// Write writes whole frames, and may spoil them.
	Write(frames []byte) error
	// Close says goodbye and ends the connection.
	Close()
}

// stream is the transport of the plain upgrade.
type stream struct {
	conn   net.Conn
	reader *relay.Reader
}

// newStream reads conn behind the upgrade, first being what was read with it;
// stamp is called whenever something came.
func newStream(conn net.Conn, first []byte, stamp func()) *stream {
	return &stream{conn: conn, reader: relay.NewReader(stampedReader{conn, stamp}, first)}
}

// stampedReader notes when something was read, once a read and not a frame.
type stampedReader struct {
	r     io.Reader
	stamp func()
}

func (r stampedReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if n > 0 {
		r.stamp()
	}
	return n, err
}

func (s *stream) Next() (relay.Type, []byte, error) { return s.reader.Next() }
func (s *stream) Close()                            { _ = s.conn.Close() }

func (s *stream) Write(frames []byte) error {
	_, err := s.conn.Write(frames)
	return err
}

// socket is the transport of WebSocket: of iroh 1.x, or of version 3 when the server
// chose no subprotocol.
type socket struct {
	conn   *websocket.Conn
	stamp  func()
	buf    []byte
	in     iroh1.Decoder
	out    iroh1.Encoder
	plain3 bool // version 3, one frame a message
}

// closeTime bounds the goodbye of a WebSocket.
const closeTime = 100 * time.Millisecond

func newSocket(conn *websocket.Conn, stamp func()) *socket {
	conn.SetReadLimit(iroh1.MaxMessage)
	return &socket{conn: conn, stamp: stamp, plain3: conn.Subprotocol() == "", in: iroh1.Decoder{FromServer: true}}
}

// message returns the next binary message, valid until the next call. Others are
// skipped.
func (s *socket) message() ([]byte, error) {
	for {
		kind, r, err := s.conn.Reader(context.Background())
		if err != nil {
			if websocket.CloseStatus(err) != -1 {
				err = io.EOF
			}
			return nil, err
		}
		s.buf = s.buf[:0]
		if s.buf, err = readAll(s.buf, r); err != nil {
			return nil, fmt.Errorf("reading a message: %w", err)
		}
		s.stamp()
		if kind == websocket.MessageBinary {
			return s.buf, nil
		}
	}
}

// readAll appends all of r to b.
func readAll(b []byte, r io.Reader) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

func (s *socket) send(message []byte) error {
	return s.conn.Write(context.Background(), websocket.MessageBinary, message)
}

func (s *socket) Next() (relay.Type, []byte, error) {
	if !s.plain3 {
		return s.in.Next(s.message)
	}
	m, err := s.message()
	if err != nil {
		return 0, nil, err
	}
	return relay.ParseMessage(m)
}

func (s *socket) Write(frames []byte) error {
	if !s.plain3 {
		return s.out.Encode(frames, s.send)
	}
	for {
		frame, rest, ok := relay.NextFrame(frames)
		if !ok {
			return nil
		}
		if err := s.send(relay.Message(frame)); err != nil {
			return err
		}
		frames = rest
	}
}

func (s *socket) Close() {
	stop := time.AfterFunc(closeTime, func() { _ = s.conn.CloseNow() })
	defer stop.Stop()
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
}
