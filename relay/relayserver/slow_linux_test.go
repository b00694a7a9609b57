package relayserver

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/relay"
)

// slowLink forwards one connection to addr; what comes back takes as long as on a
// link of 1 Mbit/s.
func slowLink(t *testing.T, addr string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		near, err := l.Accept()
		if err != nil {
			return
		}
		defer near.Close()
		// The link holds little, in segments as those of a real one.
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1000)
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10)
			})
		}}
		far, err := dialer.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer far.Close()
		go func() {
			defer func() { done <- struct{}{} }()
			_, _ = io.Copy(far, near)
			_ = far.Close()
		}()
		tick := time.NewTicker(8 * time.Millisecond)
		defer tick.Stop()
		for buf := make([]byte, 1000); ; <-tick.C {
			n, err := far.Read(buf)
			if err != nil {
				break
			}
			if _, err := near.Write(buf[:n]); err != nil {
				break
			}
		}
		_ = near.Close()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// secondOfLink is what the link carries in a second, in bytes.
const secondOfLink = 125_000

// A client behind a thin link, for which more comes than the link carries, still has
// its pings answered soon: iroh 1.x leaves a relay whose pong is half a second late.
// What counts is how much is sent before the pong, which no busy machine changes.
func TestPongOnSlowLink(t *testing.T) {
	s := start(t, Config{})
	sender, receiver := newKey(), newKey()
	conn, err := net.Dial("tcp", slowLink(t, s.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	r := rawOn(t, conn)
	r.upgrade()
	r.write(relay.AppendClientInfo(nil, receiver))
	r.sync()
	flood := logIn(t, s, sender)
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		packet := relay.AppendPacket(nil, relay.TypeSendPacket, receiver.NodeID(), make([]byte, 1200))
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := flood.conn.Write(packet); err != nil {
				return
			}
			time.Sleep(time.Millisecond) // ten times what the link carries
		}
	}()
	defer func() { close(stop); <-stopped }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	worst := 0
	for i := range 12 {
		data := [8]byte{'p', byte(i)}
		before := 0
		r.write(relay.AppendPing(nil, data))
		for {
			kind, body, err := r.frames.Next()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("no pong")
			}
			if err != nil {
				t.Fatal(err)
			}
			if kind == relay.TypePong && [8]byte(body) == data {
				break
			}
			before += len(body)
		}
		if i >= 2 { // the relay has to learn how slow the link is
			worst = max(worst, before)
		}
	}
	t.Logf("at most %d bytes came before a pong, %.2f s of the link", worst, float64(worst)/secondOfLink)
	if worst > secondOfLink {
		t.Errorf("%d bytes came before a pong", worst)
	}
}
