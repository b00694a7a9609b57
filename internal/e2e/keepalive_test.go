//go:build linux

package e2e

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// A program that set its own keep-alive learns that the machine at the far end is gone, on
// both sides and as soon as by a cable; one that did not goes on when that is back.
func TestNetnsKeepAlive(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "--relay", "none")
	a.AwaitPath(t, 5*time.Second, "direct")
	bob := a.Status(t).Peers[0]
	dev := strings.Fields(b.NS.Run(t, "ip", "-o", "addr", "show", "to", "10.0.0.2"))[1]

	// It ends 2 s after the last sign of life at the earliest, and 2 + 3 s at the latest.
	asks := net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}
	const earliest, latest = 2 * time.Second, 6 * time.Second
	var listener net.Listener
	b.NS.Do(t, func() {
		var err error
		if listener, err = net.Listen("tcp", ":7000"); err != nil {
			t.Fatal(err)
		}
	})
	defer listener.Close()
	connect := func(keepAlive net.KeepAliveConfig) (client, server *net.TCPConn) {
		var c net.Conn
		a.NS.Do(t, func() {
			var err error
			dialer := net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: keepAlive, KeepAlive: -1}
			if keepAlive.Enable {
				dialer.KeepAlive = 0
			}
			if c, err = dialer.Dial("tcp", net.JoinHostPort(bob.IPv6, "7000")); err != nil {
				t.Fatal(err)
			}
		})
		s, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		client, server = c.(*net.TCPConn), s.(*net.TCPConn)
		if err := server.SetKeepAliveConfig(keepAlive); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close(); server.Close() })
		return client, server
	}
	client, server := connect(asks)
	plain, plainServer := connect(net.KeepAliveConfig{})
	go func() { _, _ = io.Copy(plainServer, plainServer) }()

	// While the peer lives, it is found alive.
	if err := client.SetReadDeadline(time.Now().Add(latest)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !isTimeout(err) {
		t.Fatalf("the peer lives: %v", err)
	}
	_ = client.SetReadDeadline(time.Time{})

	b.NS.Run(t, "ip", "link", "set", dev, "down")
	cut := time.Now()
	ended := make(chan time.Duration, 2)
	for name, c := range map[string]*net.TCPConn{"client": client, "server": server} {
		go func() {
			_ = c.SetReadDeadline(cut.Add(2 * time.Minute))
			_, err := c.Read(make([]byte, 1))
			if !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("the %s hears %v", name, err)
			}
			ended <- time.Since(cut)
		}()
	}
	for range 2 {
		if took := <-ended; took < earliest-asks.Idle || took > nstest.Slack*latest {
			t.Errorf("noticed after %v, want %v to %v", took, earliest, latest)
		} else {
			t.Logf("noticed after %v", took.Round(10*time.Millisecond))
		}
	}
	says(t, a, "does not answer", true)
	b.NS.Run(t, "ip", "link", "set", dev, "up")
	hosttest.Eventually(t, 20*time.Second, "pings", func() error {
		if out, err := a.NS.Try("ping", "-c", "1", "-W", "1", bob.IPv4); err != nil {
			return errors.New(out)
		}
		return nil
	})
	_ = plain.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := plain.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(plain, make([]byte, 1)); err != nil {
		t.Errorf("the connection without keep-alive: %v", err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
