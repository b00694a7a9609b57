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
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/internal/nstest"
)

// traffic is what users do over a tunnel. It runs over every kind of path.
func traffic(t *testing.T, a, b *host) {
	bob := a.status(t).Peers[0]
	self := b.status(t).Self
	t.Run("ping", func(t *testing.T) { pings(t, a, bob.IPv6, bob.IPv4) })
	t.Run("traceroute", func(t *testing.T) { traceroute(t, a, bob.IPv6) })
	t.Run("dig", func(t *testing.T) { digServer(t, a, b, self.IPv6, bob.IPv6) })
	t.Run("iperf3", func(t *testing.T) { iperf(t, a, b, bob.IPv6) })
	t.Run("closed port", func(t *testing.T) { closedPort(t, a, bob.IPv6) })
	t.Run("half-close", func(t *testing.T) { halfClose(t, a, b, bob.IPv6) })
	t.Run("200 flows", func(t *testing.T) { manyFlows(t, a, b, bob.IPv6, 200, 1<<20) })
}

func pings(t *testing.T, a *host, addresses ...string) {
	nstest.Require(t, "ping")
	for _, addr := range addresses {
		for _, size := range []string{"56", "1400", "8000"} {
			out := a.ns.Run(t, "ping", "-c3", "-i0.2", "-W2", "-s", size, addr)
			if !strings.Contains(out, " 0% packet loss") {
				t.Errorf("ping -s %s %s lost packets:\n%s", size, addr, out)
			}
		}
	}
}

func traceroute(t *testing.T, a *host, addr string) {
	nstest.Require(t, "traceroute")
	out := a.ns.Run(t, "traceroute", "-n", "-6", "-m", "5", "-w", "2", addr)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], addr) {
		t.Errorf("want one hop, the peer itself:\n%s", out)
	}
}

// digServer asks a DNS server on b with an answer that needs large packets.
func digServer(t *testing.T, a, b *host, listen, addr string) {
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
	b.ns.Do(t, func() {
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
	out := a.ns.Run(t, "dig", "+short", "+notcp", "+bufsize=4096", "+tries=3", "+time=2", "-p", "5353", "@"+addr, "test.example", "TXT")
	if got := strings.Count(out, answer); got != 4 {
		t.Errorf("answer: %q", out)
	}
}

// iperfServer starts an iperf3 server and waits until it listens.
func iperfServer(t *testing.T, h *host, port string) {
	t.Helper()
	nstest.Require(t, "iperf3")
	h.spawn(t, "iperf3", "-s", "-p", port)
	eventually(t, 5*time.Second, "iperf3 listens", func() error {
		if out := h.ns.Run(t, "ss", "-Hltn", "sport", "=", ":"+port); out == "" {
			return errors.New("no listener")
		}
		return nil
	})
}

// iperf runs a second of TCP and UDP in both directions.
func iperf(t *testing.T, a, b *host, addr string) {
	iperfServer(t, b, "5201")
	for _, args := range [][]string{
		{}, {"-R"}, {"-u", "-b", "20M", "-l", "1200"}, {"-u", "-b", "20M", "-l", "1200", "-R"},
	} {
		argv := append([]string{"iperf3", "-c", addr, "-t", "1", "--connect-timeout", "5000"}, args...)
		out := a.ns.Run(t, argv...)
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
func closedPort(t *testing.T, a *host, addr string) {
	nstest.Require(t, "nc")
	began := time.Now()
	out, err := a.ns.Try("nc", "-v", "-w", "5", addr, "9")
	if err == nil || !strings.Contains(out, "refused") {
		t.Errorf("nc to a closed port: %v\n%s", err, out)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the refusal took %v", took)
	}
}

// halfClose sends data and FIN, and wants the answer that comes after it.
func halfClose(t *testing.T, a, b *host, addr string) {
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := a.ns.Cmd(ctx, "nc", "-N", addr, "7777")
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
func listenIn(t *testing.T, h *host, addr string) net.Listener {
	t.Helper()
	var listener net.Listener
	h.ns.Do(t, func() {
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
func manyFlows(t *testing.T, a, b *host, addr string, n, size int) {
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
	a.ns.Do(t, func() {
		// Sockets made on this thread belong to the namespace; connect happens
		// here too, so dial one after the other.
		for i := range conns {
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "7778"), 10*time.Second)
			if err != nil {
				t.Fatalf("flow %d: %v", i, err)
			}
			conns[i] = conn.(*net.TCPConn)
		}
	})
	opened := time.Now()
	var tasks sync.WaitGroup
	for i, conn := range conns {
		tasks.Go(func() {
			defer conn.Close()
			if err := sendChecked(conn, uint64(i), size); err != nil {
				t.Errorf("flow %d: %v", i, err)
			}
		})
	}
	tasks.Wait()
	t.Logf("%d flows: opened in %v, %d bytes each moved in %v", n, opened.Sub(began).Round(time.Millisecond), size, time.Since(opened).Round(time.Millisecond))
}

// sendChecked sends random bytes and compares the checksum that comes back.
func sendChecked(conn *net.TCPConn, seed uint64, size int) error {
	conn.SetDeadline(time.Now().Add(time.Minute))
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

// sshWorks runs a command over ssh to each target.
func sshWorks(t *testing.T, a *host, key string, targets ...string) {
	t.Helper()
	for _, target := range targets {
		began := time.Now()
		out, err := a.ns.Try(sshArgs(key, target, "echo", "hello from ssh")...)
		if err != nil || strings.TrimSpace(out) != "hello from ssh" {
			t.Errorf("ssh %s: %v\n%s", target, err, out)
		}
		t.Logf("ssh %s: %v", target, time.Since(began).Round(time.Millisecond))
	}
}

// session is an ssh session that prints a line every 100 ms.
type session struct {
	cmd   *exec.Cmd
	mu    sync.Mutex
	last  time.Time
	gap   time.Duration
	lines int
	ended chan error
}

// Write notes the arrival of output.
func (s *session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.last.IsZero() {
		s.gap = max(s.gap, now.Sub(s.last))
	}
	s.last = now
	s.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

// state returns the number of lines so far and the longest gap between two.
func (s *session) state() (lines int, gap time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines, max(s.gap, time.Since(s.last))
}

// sshSession starts an ssh session that goes on until the test ends.
func sshSession(t *testing.T, a *host, key, target string) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{ended: make(chan error, 1)}
	s.cmd = a.ns.Cmd(ctx, sshArgs(key, target, "while sleep 0.1; do echo tick; done")...)
	s.cmd.Stdout = s
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-s.ended
	})
	eventually(t, 10*time.Second, "the ssh session prints", func() error {
		if lines, _ := s.state(); lines < 3 {
			return fmt.Errorf("%d lines", lines)
		}
		return nil
	})
	return s
}

// stillRuns fails the test if the session ended or had a gap above limit.
func (s *session) stillRuns(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case err := <-s.ended:
		s.ended <- err
		t.Fatalf("the ssh session ended: %v", err)
	default:
	}
	lines, gap := s.state()
	t.Logf("ssh session: %d lines, longest gap %v", lines, gap.Round(10*time.Millisecond))
	if gap > limit {
		t.Errorf("the ssh session had a gap of %v, want at most %v", gap, limit)
	}
}
