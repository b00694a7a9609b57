//go:build linux

package e2e

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodetun/nodetun/internal/hosttest"
)

// Rate and length of the flood, and what it may cost. The machine may be too slow for
// the rate: then it is as fast as the node can read, which is all that the node's own
// buffer would let through.
const (
	floodRate   = 50_000 // packets a second, at the most
	floodTime   = 5 * time.Second
	floodTimes  = 6       // so often at the most, and at least twice: the first fills pools
	floodQueue  = 1 << 20 // bytes that may wait in the node's socket, of its 7 MiB
	floodLeast  = 5_000   // packets of all kinds that make it a flood at all
	floodMemory = 8 << 20 // bytes of growth in the last time
	floodLog    = 8 << 10 // bytes of log
)

// S6, S7, S8: garbage, foreign and truncated packets, real ones again, from the
// peer's own address and from others, leave the path and the memory as they are and
// do not fill the log.
func TestNetnsFlood(t *testing.T) {
	a, b := pair(t, "--relay", "none")
	a.AwaitPath(t, 5*time.Second, "direct")
	a.Nodetun(t, "ping", "bob", "-c", "2")

	var real [][]byte
	b.NS.Do(t, func() {
		load := a.Spawn(t, "ping", "-i", "0.02", "-c", "100", a.Status(t).Peers[0].IPv4)
		real = capture(t, 1500*time.Millisecond)
		load.Wait(t, time.Minute)
	})
	if len(real) < 20 {
		t.Fatalf("%d packets captured", len(real))
	}
	switches, logged := switchesOf(t, a), len(a.Up.Output())
	memory := []int{residentMemory(t, a.Up.PID())}

	pings := a.Spawn(t, a.Command(t.Context(), "ping", "bob", "-c", "10").Args[pathArgs:]...)
	sent, grown := 0, 0
	b.NS.Do(t, func() {
		for n := 1; n <= 2 || n <= floodTimes && grown > floodMemory; n++ {
			sent += flood(t, a.Up.PID(), real)
			memory = append(memory, residentMemory(t, a.Up.PID()))
			grown = memory[n] - memory[n-1]
		}
	})
	if code := pings.Wait(t, 30*time.Second); code != 0 || strings.Count(pings.Output(), "by direct") != 10 {
		t.Errorf("pings during the flood: exit code %d\n%s", code, pings.Output())
	}
	if sent < floodLeast {
		t.Errorf("only %d packets were sent", sent)
	}
	if err := a.OnPath(t, "direct"); err != nil {
		t.Error(err)
	}
	if now := switchesOf(t, a); now != switches {
		t.Errorf("the path changed %d times", now-switches)
	}
	t.Logf("%d packets; bytes of memory before and after each time: %d", sent, memory)
	if grown > floodMemory {
		t.Error("memory grows with the packets")
	}
	if lines := a.Up.Output()[logged:]; len(lines) > floodLog {
		t.Errorf("%d bytes of log, such as\n%s", len(lines), lines[:min(len(lines), 1000)])
	}
}

// pathArgs is where the program stands in the arguments of Host.Command: behind
// `ip netns exec NAME`.
const pathArgs = 4

// capture returns UDP payloads that leave this namespace.
func capture(t *testing.T, d time.Duration) (payloads [][]byte) {
	proto := uint16(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(proto<<8|proto>>8))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Error(err)
		return nil
	}
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(d); time.Now().Before(end) && len(payloads) < 2000; {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		ll, ok := from.(*unix.SockaddrLinklayer)
		if err != nil || !ok || ll.Pkttype != unix.PACKET_OUTGOING || n < 28 || buf[0] != 0x45 || buf[9] != unix.IPPROTO_UDP {
			continue
		}
		if port := binary.BigEndian.Uint16(buf[20:]); port == 41820 {
			payloads = append(payloads, append([]byte(nil), buf[28:n]...))
		}
	}
	return payloads
}

// flood sends packets of all kinds to a node for a while and returns how many.
func flood(t *testing.T, node int, real [][]byte) (sent int) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer unix.Close(fd)
	began := time.Now()
	for time.Since(began) < floodTime {
		next := time.Now().Add(time.Millisecond)
		for range floodRate / 1000 {
			packet, to := attack(sent, real)
			// A full queue loses it, as a wire would: it is sent again.
			for unix.Sendto(fd, packet, 0, to) == unix.ENOBUFS {
				time.Sleep(100 * time.Microsecond)
			}
			sent++
		}
		for receiveQueue(t, node) > floodQueue {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Until(next))
	}
	return sent
}

// receiveQueue returns how many bytes wait in the UDP socket of a node.
func receiveQueue(t *testing.T, pid int) int {
	t.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/udp", pid))
	if err != nil {
		t.Error(err)
		return 0
	}
	port := fmt.Sprintf(":%04X", 41820)
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st tx_queue:rx_queue …
		if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], port) {
			_, queue, _ := strings.Cut(f[4], ":")
			n, err := strconv.ParseInt(queue, 16, 64)
			if err != nil {
				t.Error(err)
			}
			return int(n)
		}
	}
	return 0
}

// attack makes one packet.
func attack(i int, real [][]byte) ([]byte, *unix.SockaddrInet4) {
	victim, peer, other := netip.MustParseAddrPort("10.0.0.1:41820"), netip.MustParseAddrPort("10.0.0.2:41820"), netip.MustParseAddrPort("10.0.0.66:3478")
	body := append([]byte(nil), real[mrand.IntN(len(real))]...)
	from, to := peer, victim
	noise := make([]byte, 1+mrand.IntN(1400))
	_, _ = rand.Read(noise)
	switch i % 12 {
	case 0: // again, as it was
	case 1: // again, from elsewhere
		from = other
	case 2: // cut off
		body = body[:mrand.IntN(len(body))]
	case 3: // one bit flipped
		body[mrand.IntN(len(body))] ^= 1 << mrand.IntN(8)
	case 4:
		body = noise
	case 5: // a STUN answer to nothing: RFC 8489 5
		body, from = append([]byte("\x01\x01\x00\x0c\x21\x12\xa4\x42"), noise[:min(len(noise), 24)]...), other
	case 6: // a STUN request
		body, from = append([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42"), noise[:min(len(noise), 12)]...), other
	case 7: // disco of a stranger
		body = append([]byte("TS\xf0\x9f\x92\xac"), noise...)
	case 8: // half a packet
		body = append([]byte{0x30 + byte(i/12%2)}, noise...)
	case 9: // the begin of a handshake that never goes on, as if the peer sent it
		body = initial(noise)
	case 10: // and from elsewhere
		body, from = initial(noise), other
	case 11: // a router's announcement: RFC 6886 3.2.1
		body, from, to = append([]byte{0, 128, 0, 0}, noise[:min(len(noise), 8)]...), other, netip.MustParseAddrPort("224.0.0.1:5350")
	}
	return datagram(from, to, body), &unix.SockaddrInet4{Addr: to.Addr().As4()}
}

// initial is a QUIC Initial (RFC 9000 17.2.2) with another connection id each time; what it
// carries does not open.
func initial(noise []byte) []byte {
	const size, ids = 1200, 8
	b := make([]byte, size)
	_, _ = rand.Read(b)
	b[0] = 0xc3
	binary.BigEndian.PutUint32(b[1:], 1) // version
	b[5], b[6+ids], b[7+2*ids] = ids, ids, 0
	binary.BigEndian.PutUint16(b[8+2*ids:], 1<<14|(size-10-2*ids))
	copy(b[30:], noise)
	return b
}

// datagram puts an IPv4 and a UDP header, without checksum, before a payload.
func datagram(from, to netip.AddrPort, body []byte) []byte {
	b := make([]byte, 28, 28+len(body))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(body)))
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(body)))
	return append(b, body...)
}

// switchesOf returns how often the path to the only peer changed.
func switchesOf(t *testing.T, h *hosttest.Host) (n int) {
	t.Helper()
	var why struct{ Switches int }
	if err := json.Unmarshal([]byte(h.Nodetun(t, "why", "bob", "--json")), &why); err != nil {
		t.Fatal(err)
	}
	return why.Switches
}

// residentMemory returns the RSS of a process in bytes.
func residentMemory(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
