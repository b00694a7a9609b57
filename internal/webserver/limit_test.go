package webserver

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// memoryListener hands out pipes.
type memoryListener chan net.Conn

func (l memoryListener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l memoryListener) Close() error   { return nil }
func (l memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

// Who comes when too many came waits, and is not turned away.
func TestAcceptRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := make(memoryListener)
		l := Limits{Rate: 10, Burst: 5, Refused: func() { t.Error("refused") }}.Listener(source)
		begin := time.Now()
		go func() {
			for range 25 {
				ours, _ := net.Pipe()
				source <- ours
			}
		}()
		for range 25 {
			if _, err := l.Accept(); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("20 more than at once took %v", took)
		}
	})
}

// addrConn is a connection from an address.
type addrConn struct {
	net.Conn
	from net.Addr
}

func (c addrConn) RemoteAddr() net.Addr { return c.from }

// S26: one host that opens connections as fast as it can, and closes them, costs all others
// nothing: they are let in at once.
func TestOneHostStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perPrefix, flood = 64, 2000
		source := make(memoryListener)
		refused := 0
		l := Limits{Total: 1000, PerPrefix: perPrefix, Rate: 1000, Burst: 100, Refused: func() { refused++ }}.Listener(source)
		dial := func(ip byte) {
			ours, _ := net.Pipe()
			source <- addrConn{ours, &net.TCPAddr{IP: net.IPv4(192, 0, ip, 7), Port: 1}}
		}
		waits := make(map[byte]time.Duration)
		go func() {
			for i := range flood {
				dial(1)
				if i%100 == 99 {
					begin := time.Now()
					dial(byte(2 + i/100))
					waits[byte(2+i/100)] = time.Since(begin)
				}
			}
			close(source)
		}()
		others := 0
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			if c.RemoteAddr().(*net.TCPAddr).IP[14] != 1 {
				others++
			}
			_ = c.Close()
		}
		if others != flood/100 || refused < flood-2*perPrefix {
			t.Errorf("%d of %d others were let in, %d refused", others, flood/100, refused)
		}
		for ip, wait := range waits {
			if wait > 10*time.Millisecond {
				t.Errorf("192.0.%d.7 waited %v", ip, wait)
			}
		}
	})
}
