package netstack

import (
	"bytes"
	"io"
	"net/netip"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Keep-alive of flows, as Linux has it when asked: it finds out that the
// machine behind a forwarded flow has vanished.
const (
	keepAliveIdle     = 2 * time.Hour
	keepAliveInterval = 75 * time.Second
)

// Flow is an open TCP connection that ends here. Close must be called once it
// is no longer needed, also after an error.
type Flow struct {
	stack         *Stack
	local, remote netip.AddrPort
	queue         waiter.Queue
	endpoint      tcpip.Endpoint
	endEntry      waiter.Entry

	closed atomic.Bool
	// finished: we have sent FIN. broken is closed when the connection has ended otherwise.
	finished atomic.Bool
	broken   chan struct{}
	breaking sync.Once
	// cause is why the connection broke, once somebody was told.
	cause atomic.Pointer[error]
	// hurried is closed when a Write has no longer all the time, but patience.
	hurried  chan struct{}
	hurrying sync.Once
	patience time.Duration

	// reading guards the fields that follow it: the buffer that is read into,
	// and the wake-up of the reader.
	reading   sync.Mutex
	sink      sliceWriter
	readEntry waiter.Entry
	readable  chan struct{}

	// writing guards the fields that follow it.
	writing    sync.Mutex
	source     bytes.Reader
	writeEntry waiter.Entry
	writable   chan struct{}
}

// newFlow prepares a flow whose endpoint is still to come.
func newFlow(s *Stack, local, remote netip.AddrPort) *Flow {
	return &Flow{stack: s, local: local, remote: remote, broken: make(chan struct{}), hurried: make(chan struct{})}
}

// start completes the flow with its connected endpoint.
func (f *Flow) start(endpoint tcpip.Endpoint) {
	f.endpoint = endpoint
	f.readEntry, f.readable = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	f.writeEntry, f.writable = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	f.queue.EventRegister(&f.readEntry)
	f.queue.EventRegister(&f.writeEntry)
	f.endEntry = waiter.NewFunctionEntry(waiter.EventHUp|waiter.EventErr, func(waiter.EventMask) { f.noteEnd() })
	f.queue.EventRegister(&f.endEntry)
	f.noteEnd() // it may have been before
	idle, interval := tcpip.KeepaliveIdleOption(keepAliveIdle), tcpip.KeepaliveIntervalOption(keepAliveInterval)
	// These three cannot fail on a TCP endpoint.
	_ = endpoint.SetSockOpt(&idle)
	_ = endpoint.SetSockOpt(&interval)
	endpoint.SocketOptions().SetKeepAlive(true)
	f.SetReceiveBuffer(SmallBuffer)
	f.SetSendBuffer(SmallBuffer)
}

// SetReceiveBuffer sets how much of the other side may wait for being read. It always can.
func (f *Flow) SetReceiveBuffer(bytes int) bool {
	f.endpoint.SocketOptions().SetReceiveBufferSize(int64(bytes), true)
	return true
}

// SetSendBuffer sets how much may wait for being sent and acknowledged. It reports false,
// and nothing changes, if that is more already.
func (f *Flow) SetSendBuffer(bytes int) bool {
	options := f.endpoint.SocketOptions()
	before := options.GetSendBufferSize()
	options.SetSendBufferSize(int64(bytes), true)
	if int64(bytes) >= before || f.endpoint.Readiness(waiter.WritableEvents) != 0 {
		return true
	}
	options.SetSendBufferSize(before, true)
	return false
}

// Await waits until there is something to read, or an end or an error. It reports false when
// that took longer than patience, which is endless if zero.
func (f *Flow) Await(patience time.Duration) bool {
	var over <-chan time.Time
	for f.endpoint.Readiness(waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr) == 0 && !f.closed.Load() {
		if patience > 0 && over == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-f.readable:
		case <-over:
			return false
		}
	}
	return true
}

// LocalAddr is the end on this side: whom the caller called, or where Dial
// dialled from.
func (f *Flow) LocalAddr() netip.AddrPort { return f.local }

// RemoteAddr is the other end.
func (f *Flow) RemoteAddr() netip.AddrPort { return f.remote }

// sliceWriter is an io.Writer that fills a slice, and refuses what does not
// fit.
type sliceWriter struct{ rest []byte }

func (w *sliceWriter) Write(b []byte) (int, error) {
	n := copy(w.rest, b)
	w.rest = w.rest[n:]
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// Read waits for data and returns as much of it as there is and fits. Large
// buffers pay: 256 KiB hold what comes between two wake-ups. It returns io.EOF
// after the other side's FIN, ErrReset after its RST, ErrClosed after Close or
// Abort.
func (f *Flow) Read(b []byte) (int, error) { return f.ReadUntil(nil, b) }

// ReadUntil is Read that gives up when stop is closed, with neither bytes nor an
// error.
func (f *Flow) ReadUntil(stop <-chan struct{}, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	f.reading.Lock()
	defer f.reading.Unlock()
	for {
		f.sink.rest = b
		result, err := f.endpoint.Read(&f.sink, tcpip.ReadOptions{})
		f.sink.rest = nil
		if err == nil {
			return result.Count, nil
		}
		if _, wait := err.(*tcpip.ErrWouldBlock); !wait {
			return 0, f.readError(err)
		}
		select {
		case <-f.readable:
		case <-stop:
			return 0, nil
		}
	}
}

// readError translates an error of Endpoint.Read.
func (f *Flow) readError(err tcpip.Error) error {
	if _, end := err.(*tcpip.ErrClosedForReceive); end && !f.dead() && !f.closed.Load() {
		return io.EOF
	}
	return f.failure(err)
}

// dead reports whether the connection ended otherwise than by FIN of both sides.
func (f *Flow) dead() bool {
	switch tcp.EndpointState(f.endpoint.State()) {
	case tcp.StateError:
		return true
	case tcp.StateClose: // by a reset too, if the other side alone had sent FIN
		return !f.finished.Load()
	}
	return false
}

// noteEnd closes broken if the connection has ended by a reset or in silence.
func (f *Flow) noteEnd() {
	if f.dead() {
		f.breaking.Do(func() { close(f.broken) })
	}
}

// Broken is closed when the other side has reset the connection, or no longer answers, also
// when nobody reads or writes.
func (f *Flow) Broken() <-chan struct{} { return f.broken }

// failure is the error of a flow that cannot go on. The endpoint tells the cause
// only once, to whoever asks first, and something that looks like an orderly
// end from then on: hence the memory.
func (f *Flow) failure(err tcpip.Error) error {
	if f.closed.Load() || f.stack.isClosed() {
		return ErrClosed
	}
	switch err.(type) {
	case *tcpip.ErrClosedForReceive, *tcpip.ErrClosedForSend, *tcpip.ErrNotConnected:
	default:
		cause := stackError(err)
		f.cause.CompareAndSwap(nil, &cause)
	}
	if cause := f.cause.Load(); cause != nil {
		return *cause
	}
	return ErrReset
}

// Write queues all of b for sending; it waits while the buffers are full. The
// bytes are copied. It returns ErrReset after the other side's RST, ErrClosed
// after Close, Abort or CloseWrite, ErrTimeout after Hurry, with the number of bytes
// taken until then.
func (f *Flow) Write(b []byte) (int, error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	for done := 0; ; {
		if done == len(b) {
			return done, nil
		}
		f.source.Reset(b[done:])
		n, err := f.endpoint.Write(&f.source, tcpip.WriteOptions{})
		f.source.Reset(nil)
		done += int(n)
		if err == nil {
			continue
		}
		if _, wait := err.(*tcpip.ErrWouldBlock); !wait {
			return done, f.writeError(err)
		}
		select {
		case <-f.writable:
		case <-f.hurried:
			if !f.roomSoon() {
				return done, ErrTimeout
			}
		}
	}
}

// roomSoon waits for room in the buffers, at most for the time that Hurry was told.
func (f *Flow) roomSoon() bool {
	over := time.NewTimer(f.patience)
	defer over.Stop()
	select {
	case <-f.writable:
		return true
	case <-over.C:
		return false
	}
}

// Hurry has a Write fail with ErrTimeout once the other side has taken nothing for the time
// of patience: one that waits already, and each that comes. Only the first call counts.
func (f *Flow) Hurry(patience time.Duration) {
	f.hurrying.Do(func() {
		f.patience = patience
		close(f.hurried)
	})
}

// writeError translates an error of Endpoint.Write.
func (f *Flow) writeError(err tcpip.Error) error {
	if _, end := err.(*tcpip.ErrClosedForSend); end && !f.dead() {
		return ErrClosed
	}
	return f.failure(err)
}

// CloseWrite sends FIN behind what was written. Reading goes on.
func (f *Flow) CloseWrite() error {
	f.finished.Store(true)
	if err := f.endpoint.Shutdown(tcpip.ShutdownWrite); err != nil {
		return f.writeError(err)
	}
	return nil
}

// Pauses of Drain between two looks.
const (
	minLook = time.Millisecond
	maxLook = 50 * time.Millisecond
)

// Drain waits until the other side has acknowledged all that was written: an Abort
// then takes nothing away. It gives up when nothing more was acknowledged for the
// time of patience, and when the flow is over. Nothing may be written any more.
func (f *Flow) Drain(patience time.Duration) {
	// From here on the buffer has its size from us, see unacknowledged.
	f.endpoint.SocketOptions().SetSendBufferSize(1, true)
	look := time.NewTimer(minLook)
	defer look.Stop()
	pause, left, since := minLook, f.unacknowledged(), time.Now()
	for left > 0 && !f.closed.Load() && time.Since(since) < patience {
		<-look.C
		if now := f.unacknowledged(); now < left {
			left, since = now, time.Now()
		}
		pause = min(2*pause, maxLook)
		look.Reset(pause)
	}
}

// unacknowledged returns how many bytes wait for being sent and acknowledged. gVisor
// does not tell, but whether a send buffer of a given size would have room.
func (f *Flow) unacknowledged() int {
	defer f.endpoint.SocketOptions().SetSendBufferSize(f.endpoint.SocketOptions().GetSendBufferSize(), false)
	return sort.Search(2*LargeBuffer, func(n int) bool {
		f.endpoint.SocketOptions().SetSendBufferSize(int64(n)+1, false)
		return f.endpoint.Readiness(waiter.WritableEvents) != 0
	})
}

// Abort ends the flow with RST; what was not sent yet is lost. Reads and
// writes that wait return ErrClosed.
func (f *Flow) Abort() {
	if f.closed.CompareAndSwap(false, true) {
		f.endpoint.Abort()
		f.end()
	}
}

// Close ends the flow: with FIN behind what was written, or with RST if there
// is data that nobody read. It does not wait for the other side. Reads and
// writes that wait return ErrClosed.
func (f *Flow) Close() {
	if f.closed.CompareAndSwap(false, true) {
		f.end()
	}
}

// end gives the endpoint back and wakes who waits.
func (f *Flow) end() {
	f.endpoint.Close()
	for _, waiting := range []chan struct{}{f.readable, f.writable} {
		select {
		case waiting <- struct{}{}:
		default:
		}
	}
}
