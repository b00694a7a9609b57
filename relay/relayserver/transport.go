package relayserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/relay"
)

// transport carries frames to and from one client. One goroutine reads, one
// writes; Close and CloseWrite may be called from any.
type transport interface {
	// Next returns the next frame; the body is valid until the next call.
	Next() (relay.Type, []byte, error)
	// Write writes whole frames of the stream form, and may spoil them.
	Write(frames []byte) error
	// CloseWrite ends what is sent, in good order.
	CloseWrite()
	// Close ends the connection at once.
	Close()
	// Received returns when something last arrived, as time since the start.
	Received() time.Time
	// Pace sets what is called after bytes were read, before more are. It is set by the
	// goroutine that reads, which ends when it returns false.
	Pace(pace func(n int) bool)
}

// metered is a connection all of whose bytes count, whatever frames they make or do not.
type metered struct {
	net.Conn
	pace func(n int) bool // nil: they cost nothing
	read int              // not yet told to pace
}

// Read implements net.Conn.
func (m *metered) Read(b []byte) (int, error) {
	n := m.read
	m.read = 0
	if m.pace != nil && n > 0 && !m.pace(n) {
		return 0, errStopped
	}
	n, err := m.Conn.Read(b)
	m.read = n
	return n, err
}

// hijacker is the answer to a request whose connection is metered when it is taken over.
type hijacker struct {
	http.ResponseWriter
	conn *metered // then
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &metered{Conn: conn}
	return h.conn, buffered, nil
}

// stamp remembers a moment; it is safe for concurrent use.
type stamp struct {
	begin time.Time
	at    atomic.Int64 // since begin; 0: never
}

func newStamp() stamp { return stamp{begin: time.Now()} }

func (s *stamp) set() { s.at.Store(int64(max(1, time.Since(s.begin)))) }

func (s *stamp) get() time.Time {
	if at := s.at.Load(); at > 0 {
		return s.begin.Add(time.Duration(at))
	}
	return time.Time{}
}

// stream is the transport of the plain upgrade.
type stream struct {
	conn     *metered
	reader   *relay.Reader
	received stamp
}

func newStream(conn net.Conn) *stream {
	s := &stream{conn: &metered{Conn: conn}, received: newStamp()}
	s.reader = relay.NewReader(stampedReader{s}, nil)
	return s
}

type stampedReader struct{ s *stream }

func (r stampedReader) Read(b []byte) (int, error) {
	n, err := r.s.conn.Read(b)
	if n > 0 {
		r.s.received.set()
	}
	return n, err
}

func (s *stream) Next() (relay.Type, []byte, error) { return s.reader.Next() }
func (s *stream) Received() time.Time               { return s.received.get() }
func (s *stream) Close()                            { _ = s.conn.Close() }
func (s *stream) Pace(pace func(int) bool)          { s.conn.pace = pace }

func (s *stream) Write(frames []byte) error {
	_, err := s.conn.Write(frames)
	return err
}

func (s *stream) CloseWrite() {
	if half, ok := s.conn.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	s.Close()
}

// socket is the transport of WebSocket: each frame is one binary message.
type socket struct {
	ctx      context.Context
	cancel   context.CancelFunc
	conn     *websocket.Conn
	raw      *metered
	buf      []byte
	received stamp
}

func newSocket(conn *websocket.Conn, raw *metered) *socket {
	ctx, cancel := context.WithCancel(context.Background())
	conn.SetReadLimit(relay.MaxFrame)
	return &socket{ctx: ctx, cancel: cancel, conn: conn, raw: raw, buf: make([]byte, 4<<10), received: newStamp()}
}

func (s *socket) Received() time.Time      { return s.received.get() }
func (s *socket) Pace(pace func(int) bool) { s.raw.pace = pace }

func (s *socket) Next() (relay.Type, []byte, error) {
	b, err := s.message()
	if err != nil {
		return 0, nil, err
	}
	return relay.ParseMessage(b)
}

// message returns the next binary message, valid until the next call.
func (s *socket) message() ([]byte, error) {
	r, err := s.nextBinary()
	if err != nil {
		return nil, err
	}
	n := 0
	for {
		if n == len(s.buf) {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
		m, err := r.Read(s.buf[n:])
		n += m
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading a message: %w", err)
		}
	}
	s.received.set()
	return s.buf[:n], nil
}

// nextBinary returns the next binary message. Text is skipped, as iroh does.
func (s *socket) nextBinary() (io.Reader, error) {
	for {
		kind, r, err := s.conn.Reader(s.ctx)
		if err != nil {
			if websocket.CloseStatus(err) != -1 {
				err = io.EOF
			}
			return nil, err
		}
		if kind == websocket.MessageBinary {
			return r, nil
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, err
		}
	}
}

func (s *socket) Write(frames []byte) error {
	ctx, cancel := context.WithTimeout(s.ctx, socketWriteTimeout)
	defer cancel()
	for {
		frame, rest, ok := relay.NextFrame(frames)
		if !ok {
			return nil
		}
		if err := s.send(ctx, relay.Message(frame)); err != nil {
			return err
		}
		frames = rest
	}
}

func (s *socket) send(ctx context.Context, message []byte) error {
	return s.conn.Write(ctx, websocket.MessageBinary, message)
}

// socketWriteTimeout bounds the write of one block of frames. It is long,
// because it is not renewed when some of it goes.
const socketWriteTimeout = 10 * time.Second

func (s *socket) CloseWrite() { s.Close() }

func (s *socket) Close() {
	s.cancel()
	_ = s.conn.CloseNow()
}
