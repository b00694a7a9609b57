//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// traffic is what users do over a tunnel. It runs over every kind of path.
func traffic(t *testing.T, a, b *hosttest.Host) {
	bob := a.Status(t).Peers[0]
	self := b.Status(t).Self
	t.Run("ping", func(t *testing.T) { pings(t, a, bob.IPv6, bob.IPv4) })
	t.Run("traceroute", func(t *testing.T) { traceroute(t, a, bob.IPv6) })
	t.Run("dig", func(t *testing.T) { digServer(t, a, b, self.IPv6, bob.IPv6) })
	t.Run("iperf3", func(t *testing.T) { iperf(t, a, b, bob.IPv6) })
	t.Run("closed port", func(t *testing.T) { closedPort(t, a, bob.IPv6) })
	t.Run("half-close", func(t *testing.T) { halfClose(t, a, b, bob.IPv6) })
	t.Run("200 flows", func(t *testing.T) { manyFlows(t, a, b, bob.IPv6, 200, 1<<20) })
}

func pings(t *testing.T, a *hosttest.Host, addresses ...string) {
	nstest.Require(t, "ping")
	for _, addr := range addresses {
		for _, size := range []string{"56", "1400", "8000"} {
			// A datagram may be lost on a machine that has no time for it, not always.
			hosttest.Eventually(t, 10*time.Second, "pings of "+size+" bytes come back", func() error {
				out := a.NS.Run(t, "ping", "-c3", "-i0.2", "-W2", "-s", size, addr)
				if !strings.Contains(out, " 0% packet loss") {
					return errors.New(out)
				}
				return nil
			})
		}
	}
}

func traceroute(t *testing.T, a *hosttest.Host, addr string) {
	nstest.Require(t, "traceroute")
	out := a.NS.Run(t, "traceroute", "-n", "-6", "-m", "5", "-w", "2", addr)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], addr) {
		t.Errorf("want one hop, the peer itself:\n%s", out)
	}
}

// digServer asks a DNS server on b with an answer that needs large packets.
func digServer(t *testing.T, a, b *hosttest.Host, listen, addr string) {
	nstest.Require(t, "dig")
	answer := strings.Repeat("nodetun ", 30) // four of these in 1 000 bytes
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for range 4 {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{answer}})
		}
		w.WriteMsg(m)
	})
	var conn net.PacketConn
	b.NS.Do(t, func() {
		var err error
		if conn, err = net.ListenPacket("udp", net.JoinHostPort(listen, "5353")); err != nil {
			t.Fatal(err)
		}
	})
	server := &dns.Server{PacketConn: conn, Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.ActivateAndServe() }()
	defer func() {
		server.Shutdown()
		<-served
	}()
	out := a.NS.Run(t, "dig", "+short", "+notcp", "+bufsize=4096", "+tries=3", "+time=2", "-p", "5353", "@"+addr, "test.example", "TXT")
	if got := strings.Count(out, answer); got != 4 {
		t.Errorf("answer: %q", out)
	}
}

// iperf runs a second of TCP and UDP in both directions.
func iperf(t *testing.T, a, b *hosttest.Host, addr string) {
	b.IperfServer(t, "5201")
	for _, args := range [][]string{
		{}, {"-R"}, {"-u", "-b", "20M", "-l", "1200"}, {"-u", "-b", "20M", "-l", "1200", "-R"},
	} {
		argv := append([]string{"iperf3", "-c", addr, "-t", "1", "--connect-timeout", "30000"}, args...)
		out := a.NS.Run(t, argv...)
		for line := range strings.Lines(out) {
			if strings.Contains(line, "receiver") {
				t.Logf("%v: %s", args, strings.TrimSpace(line))
			}
		}
		if !strings.Contains(out, "receiver") || strings.Contains(out, "error") {
			t.Errorf("iperf3 %v:\n%s", args, out)
		}
	}
}

// closedPort wants a refusal from the far kernel, not a time-out.
func closedPort(t *testing.T, a *hosttest.Host, addr string) {
	nstest.Require(t, "nc")
	began := time.Now()
	out, err := a.NS.Try("nc", "-v", "-w", "30", addr, "9")
	if err == nil || !strings.Contains(out, "refused") {
		t.Errorf("nc to a closed port: %v\n%s", err, out)
	}
	if took := time.Since(began); took > nstest.Slack*2*time.Second {
		t.Errorf("the refusal took %v", took)
	}
}

// halfClose sends data and FIN, and wants the answer that comes after it.
func halfClose(t *testing.T, a, b *hosttest.Host, addr string) {
	nstest.Require(t, "nc")
	listener := listenIn(t, b, ":7777")
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		got, err := io.ReadAll(conn) // until the FIN
		if err == nil {
			_, err = fmt.Fprintf(conn, "got %d bytes", len(got))
		}
		served <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := a.NS.Cmd(ctx, "nc", "-N", addr, "7777")
	cmd.Stdin = bytes.NewReader(make([]byte, 3<<20))
	out, err := cmd.Output()
	if err != nil || string(out) != fmt.Sprintf("got %d bytes", 3<<20) {
		t.Errorf("nc -N: %v, %q", err, out)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// listenIn opens a TCP listener inside the host's namespace.
func listenIn(t *testing.T, h *hosttest.Host, addr string) net.Listener {
	t.Helper()
	var listener net.Listener
	h.NS.Do(t, func() {
		var err error
		if listener, err = net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { listener.Close() })
	return listener
}

// manyFlows opens n connections at once, each with size random bytes up, whose
// checksum comes back.
func manyFlows(t *testing.T, a, b *hosttest.Host, addr string, n, size int) {
	listener := listenIn(t, b, ":7778")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				hash := sha256.New()
				if _, err := io.Copy(hash, conn); err == nil {
					conn.Write(hash.Sum(nil))
				}
			}()
		}
	}()
	conns, began := make([]*net.TCPConn, n), time.Now()
	a.NS.Do(t, func() {
		// Sockets made on this thread belong to the namespace; connect happens
		// here too, so dial one after the other.
		for i := range conns {
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "7778"), time.Minute)
			if err != nil {
				t.Fatalf("flow %d: %v", i, err)
			}
			conns[i] = conn.(*net.TCPConn)
		}
	})
	opened := time.Now()
	var tasks sync.WaitGroup
	var evidence sync.Once
	for i, conn := range conns {
		tasks.Go(func() {
			defer conn.Close()
			if err := sendChecked(conn, uint64(i), size); err != nil {
				t.Errorf("flow %d, %v: %v", i, conn.LocalAddr(), err)
				evidence.Do(func() { standstill(t, a, b) })
			}
		})
	}
	tasks.Wait()
	t.Logf("%d flows: opened in %v, %d bytes each moved in %v", n, opened.Sub(began).Round(time.Millisecond), size, time.Since(opened).Round(time.Millisecond))
}

// standstill tells where flows stand that do not go on: what the kernels know of them,
// and what each goroutine of the nodes waits for, which ends the nodes.
func standstill(t *testing.T, hosts ...*hosttest.Host) {
	for _, h := range hosts {
		out, _ := h.NS.Try("ss", "-timeno")
		t.Logf("connections on %s:\n%s", h.NS.Name, out)
	}
	for _, h := range hosts {
		h.Up.Signal(syscall.SIGQUIT)
	}
}

// sendChecked sends random bytes and compares the checksum that comes back.
func sendChecked(conn *net.TCPConn, seed uint64, size int) error {
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(conn, hash), rand.NewChaCha8(key), int64(size)); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if want := hash.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("checksum %x, want %x", got, want)
	}
	return nil
}

// A server that answers and closes while there is input that it did not read resets
// the connection. What it said before arrives first, also at a slow reader, as over a
// cable.
func TestNetnsEarlyAnswer(t *testing.T) {
	a, b := pair(t, "--relay", "none")
	a.AwaitPath(t, 10*time.Second, "direct")
	bob := a.Status(t).Peers[0]
	for _, tc := range []struct {
		name          string
		asked, answer int
		pause         time.Duration // of the reader, before it reads and after each 16 KiB
		tries         int
	}{
		{"small", 3000, 61, 0, 60},
		{"upload refused", 2 << 20, 61, 0, 20},
		{"slow reader", 3000, 300 << 10, 20 * time.Millisecond, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			listener := listenIn(t, b, ":7780")
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						_, _ = io.ReadFull(conn, make([]byte, 10))
						_, _ = conn.Write(bytes.Repeat([]byte("x"), tc.answer))
						awaitSent(t, conn.(*net.TCPConn))
					}()
				}
			}()
			for _, addr := range []string{bob.IPv4, bob.IPv6} {
				for i := range tc.tries {
					var conn net.Conn
					a.NS.Do(t, func() {
						var err error
						if conn, err = net.DialTimeout("tcp", net.JoinHostPort(addr, "7780"), time.Minute); err != nil {
							t.Fatal(err)
						}
					})
					conn.SetDeadline(time.Now().Add(time.Minute))
					_, told := conn.Write(make([]byte, tc.asked))
					time.Sleep(tc.pause)
					got, buf := 0, make([]byte, 16<<10)
					var err error
					for n := 0; err == nil; got += n {
						n, err = conn.Read(buf)
						time.Sleep(tc.pause)
					}
					conn.Close()
					// A kernel tells of a reset once: to the write that it broke off or to the read.
					if got != tc.answer || !errors.Is(err, syscall.ECONNRESET) && told == nil {
						t.Errorf("%s, try %d: %v, %d bytes of %d, %v", addr, i, told, got, tc.answer, err)
					}
				}
			}
		})
	}
}

// awaitSent waits until the kernel has sent all that was written: what it has not
// sent when a connection is reset is lost over a cable too.
func awaitSent(t *testing.T, conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	hosttest.Eventually(t, 10*time.Second, "all is sent", func() error {
		var queued int
		var asked error
		if err := raw.Control(func(fd uintptr) { queued, asked = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return err
		}
		if asked == nil && queued > 0 {
			return fmt.Errorf("%d bytes queued", queued)
		}
		return asked
	})
}
