package webserver

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// memoryListener hands out pipes.
type memoryListener chan net.Conn

func (l memoryListener) Accept() (net.Conn, error) { return <-l, nil }
func (l memoryListener) Close() error              { return nil }
func (l memoryListener) Addr() net.Addr            { return &net.UnixAddr{Name: "memory"} }

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
