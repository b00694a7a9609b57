//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
)

// echoAll has a host take TCP and UDP at every port of its overlay addresses, and echo.
func echoAll(t *testing.T, h *hosttest.Host) {
	t.Helper()
	const port = "7777"
	h.NS.Run(t, "nft", "table inet echo { chain in { type nat hook prerouting priority -100; iifname nodetun0 meta l4proto { tcp, udp } redirect to :"+port+"; }; }")
	var l net.Listener
	var pc net.PacketConn
	var err, udpErr error
	h.NS.Do(t, func() {
		l, err = net.Listen("tcp", ":"+port)
		pc, udpErr = net.ListenPacket("udp", ":"+port)
	})
	if err = errors.Join(err, udpErr); err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	tasks.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() {
		_, _ = l.Close(), pc.Close()
		tasks.Wait()
	})
}

// reaches tries it: a byte goes there and comes back.
func reaches(t *testing.T, h *hosttest.Host, network, addr string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var conn net.Conn
	var err error
	h.NS.Do(t, func() { conn, err = new(net.Dialer).DialContext(ctx, network, addr) })
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err == nil
}

// What check says of 300 generated cases is what happens.
func TestNetnsCheckIsTrue(t *testing.T) {
	a, b := pair(t, "--relay", "none")
	a.AwaitPath(t, 5*time.Second, "direct")
	echoAll(t, b)
	bob := a.Status(t).Peers[0]
	random := rand.New(rand.NewPCG(20, 26))
	port := func() int { return 1 + random.IntN(40) } // few, so that both answers come up
	rule := func() string {
		proto := []string{"tcp", "udp"}[random.IntN(2)]
		switch first := port(); random.IntN(6) {
		case 0:
			return "icmp"
		case 1, 2:
			return fmt.Sprintf("%s/%d-%d", proto, first, first+random.IntN(12))
		default:
			return fmt.Sprintf("%s/%d", proto, first)
		}
	}
	var yes, no int
	for range 30 {
		b.Nodetun(t, "deny", "alice")
		list := []string{"allow", "alice"}
		if random.IntN(15) == 0 {
			list = append(list, "all")
		}
		for range 1 + random.IntN(5) {
			list = append(list, rule())
		}
		may := strings.TrimSpace(b.Nodetun(t, list...))
		if random.IntN(3) == 0 && !strings.Contains(may, " all") { // some of it is taken back
			b.Nodetun(t, "deny", "alice", rule())
			b.Nodetun(t, "allow", "alice", "tcp/1000") // never nothing, which would end the connection
		}
		for range 10 {
			asked, addr := "icmp", []string{bob.IPv6, bob.IPv4}[random.IntN(2)]
			var real bool
			if proto := []string{"tcp", "udp", "icmp"}[random.IntN(3)]; proto == "icmp" {
				_, err := a.NS.Try("ping", "-c1", "-W2", addr)
				real = err == nil
			} else {
				p := port()
				asked = fmt.Sprintf("%s/%d", proto, p)
				real = reaches(t, a, proto, net.JoinHostPort(addr, fmt.Sprint(p)))
			}
			_, code := b.Try(t, "check", "alice", asked)
			if said := code == 0; said != real || code != 0 && code != 6 {
				t.Errorf("%s: check of %s says %v (exit %d), and it is %v", may, asked, said, code, real)
			}
			if real {
				yes++
			} else {
				no++
			}
		}
	}
	t.Logf("%d yes, %d no", yes, no)
	if yes < 50 || no < 50 {
		t.Errorf("the cases show little: %d yes, %d no", yes, no)
	}
}
