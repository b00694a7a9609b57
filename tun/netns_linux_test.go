package tun_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/internal/nstest"
	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/tun"
	"golang.org/x/sys/unix"
)

// open makes a device in a namespace of its own, with an address on it.
func open(t testing.TB, name string) (*nstest.NS, *tun.Device) {
	t.Helper()
	ns := nstest.New(t, "tun")
	var dev *tun.Device
	var err error
	ns.Do(t, func() { dev, err = tun.Open(tun.Config{Name: name, MTU: 1420}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	ns.Try("sysctl", "-qw", "net.ipv6.conf."+dev.Name()+".disable_ipv6=1")
	ns.Run(t, "ip", "addr", "add", "100.100.0.1/16", "dev", dev.Name())
	ns.Run(t, "ip", "link", "set", dev.Name(), "up")
	return ns, dev
}

// udp opens a socket inside the namespace.
func udp(t testing.TB, ns *nstest.NS) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	ns.Do(t, func() { conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(100, 100, 0, 1)}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// program ── udp ── kernel ── device: what the program sends is read from the
// device, turned round, and comes back to the program.
func TestNetnsMovesPackets(t *testing.T) {
	ns, dev := open(t, "nt0")
	if dev.Name() != "nt0" {
		t.Errorf("name %q", dev.Name())
	}
	if out := ns.Run(t, "ip", "link", "show", "nt0"); !strings.Contains(out, "mtu 1420") {
		t.Errorf("link: %s", out)
	}
	conn := udp(t, ns)
	buf := make([]byte, tun.BufferSize)
	for _, size := range []int{1, 1300} {
		sent := bytes.Repeat([]byte{7}, size)
		if _, err := conn.WriteToUDP(sent, &net.UDPAddr{IP: net.IPv4(100, 100, 0, 2), Port: 9}); err != nil {
			t.Fatal(err)
		}
		h, ip, err := dev.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if h.Flags&vnet.NeedsCsum == 0 || len(ip) != 28+size {
			t.Errorf("%d bytes with header %+v", len(ip), h)
		}
		swap(ip)
		// In parts, with the checksum still partial, as the stack writes.
		if err := dev.Write(h, ip[:20], ip[20:28], ip[28:]); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 2000)
		n, from, err := conn.ReadFromUDP(got)
		if err != nil || !bytes.Equal(got[:n], sent) || from.Port != 9 {
			t.Errorf("%d bytes from %v, %v", n, from, err)
		}
	}
}

// swap exchanges source and destination of a UDP packet over IPv4; no checksum
// changes by that.
func swap(ip []byte) {
	src := binary.BigEndian.Uint32(ip[12:])
	binary.BigEndian.PutUint32(ip[12:], binary.BigEndian.Uint32(ip[16:]))
	binary.BigEndian.PutUint32(ip[16:], src)
	port := binary.BigEndian.Uint16(ip[20:])
	binary.BigEndian.PutUint16(ip[20:], binary.BigEndian.Uint16(ip[22:]))
	binary.BigEndian.PutUint16(ip[22:], port)
}

func TestNetnsCloseEndsRead(t *testing.T) {
	_, dev := open(t, "nt0")
	ended := make(chan error, 1)
	go func() {
		_, _, err := dev.Read(make([]byte, tun.BufferSize))
		ended <- err
	}()
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, tun.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := dev.Write(vnet.Header{}, make([]byte, 40)); !errors.Is(err, tun.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if err := dev.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestNetnsRemovedAndDown(t *testing.T) {
	ns, dev := open(t, "nt0")
	packet := append([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0}, 100, 100, 0, 2, 100, 100, 0, 1)
	if err := dev.Write(vnet.Header{}, packet); err != nil {
		t.Errorf("write: %v", err)
	}
	ns.Run(t, "ip", "link", "set", "nt0", "down")
	if err := dev.Write(vnet.Header{}, packet); !errors.Is(err, tun.ErrDown) {
		t.Errorf("write to a link that is down: %v", err)
	}
	ns.Run(t, "ip", "link", "set", "nt0", "up")
	ended := make(chan error, 1)
	go func() {
		_, _, err := dev.Read(make([]byte, tun.BufferSize))
		ended <- err
	}()
	ns.Run(t, "ip", "link", "del", "nt0")
	if err := <-ended; !errors.Is(err, tun.ErrRemoved) {
		t.Errorf("read: %v", err)
	}
	if err := dev.Write(vnet.Header{}, packet); !errors.Is(err, tun.ErrRemoved) {
		t.Errorf("write: %v", err)
	}
}

// Go's poller may be the first to hear that the interface went: it then calls the
// descriptor not pollable and reads nothing.
func TestNetnsRemovedBeforeRead(t *testing.T) {
	for range 5 {
		ns, dev := open(t, "nt0")
		ns.Run(t, "ip", "link", "del", "nt0")
		ns.Run(t, "sleep", "0.1") // so that the poller is asked
		if _, _, err := dev.Read(make([]byte, tun.BufferSize)); !errors.Is(err, tun.ErrRemoved) {
			t.Errorf("read: %v", err)
		}
	}
}

func TestNetnsNames(t *testing.T) {
	ns, dev := open(t, "nt0")
	ns.Run(t, "ip", "link", "add", "nt1", "type", "veth", "peer", "name", "nt1p")
	ns.Run(t, "ip", "tuntap", "add", "dev", "nt2", "mode", "tun", "vnet_hdr")
	ns.Run(t, "ip", "tuntap", "add", "dev", "nt3", "mode", "tap")
	tests := []struct {
		name string
		want error
	}{
		{"nt0", tun.ErrBusy},
		{"nt1", tun.ErrBusy},
		{"nt2", nil}, // a persistent one that nobody uses
		{"nt3", tun.ErrBusy},
		{"", nil},
	}
	for _, tt := range tests {
		ns.Do(t, func() {
			other, err := tun.Open(tun.Config{Name: tt.name, MTU: 1280})
			if !errors.Is(err, tt.want) {
				t.Errorf("%q: %v", tt.name, err)
			}
			if err != nil {
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("more than one line: %v", err)
				}
				return
			}
			if other.Name() == "" || other.Name() == dev.Name() {
				t.Errorf("%q became %q", tt.name, other.Name())
			}
			other.Close()
		})
	}
}

// A process without CAP_NET_ADMIN is told so.
func TestNetnsPermission(t *testing.T) {
	ns := nstest.New(t, "tun")
	if info, err := os.Stat("/dev/net/tun"); err != nil || info.Mode().Perm()&0o200 == 0 {
		t.Skip("no /dev/net/tun")
	}
	done := make(chan error, 1)
	go func() {
		// This thread gives its capabilities away and ends with its goroutine.
		runtime.LockOSThread()
		ns.Do(t, func() {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var sets [2]unix.CapUserData
			if err := unix.Capset(&header, &sets[0]); err != nil {
				done <- err
				return
			}
			_, err := tun.Open(tun.Config{Name: "nt0", MTU: 1420})
			done <- err
		})
	}()
	if err := <-done; !errors.Is(err, tun.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

// Several goroutines write at a time; nothing is mixed up.
func TestNetnsConcurrentWrites(t *testing.T) {
	ns, dev := open(t, "nt0")
	conn := udp(t, ns)
	port := conn.LocalAddr().(*net.UDPAddr).Port
	const writers, each = 4, 20 // fits the socket's buffer
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			h, ip := datagram(port, bytes.Repeat([]byte{byte(i)}, 1000))
			for range each {
				if err := dev.Write(h, ip[:28], ip[28:]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	counts := map[byte]int{}
	buf := make([]byte, 2000)
	for range writers * each {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n != 1000 || !bytes.Equal(buf[:n], bytes.Repeat(buf[:1], n)) {
			t.Fatalf("mixed datagram of %d bytes", n)
		}
		counts[buf[0]]++
	}
	group.Wait()
	if len(counts) != writers {
		t.Errorf("%v", counts)
	}
}

// datagram makes a UDP packet to the test's socket with partial checksum.
func datagram(port int, payload []byte) (vnet.Header, []byte) {
	ip := make([]byte, 28+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{100, 100, 0, 2, 100, 100, 0, 1})
	binary.BigEndian.PutUint16(ip[20:], 9)
	binary.BigEndian.PutUint16(ip[22:], uint16(port))
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
	binary.BigEndian.PutUint16(ip[26:], vnet.PseudoSum(ip, 17, len(ip)-20))
	copy(ip[28:], payload)
	// The IPv4 header checksum, by way of a partial one over the header.
	vnet.Finish(vnet.Header{Flags: vnet.NeedsCsum, CsumStart: 0, CsumOffset: 10}, ip[:20])
	return vnet.Header{Flags: vnet.NeedsCsum, HdrLen: 28, CsumStart: 20, CsumOffset: 6}, ip
}

// BenchmarkNetnsWrite is one packet into the kernel, which drops it for want of
// a socket.
func BenchmarkNetnsWrite(b *testing.B) {
	_, dev := open(b, "nt0")
	h, ip := datagram(9, make([]byte, 1392))
	h.Flags, ip[16] = 0, 101 // to nowhere: no ICMP comes of it
	b.SetBytes(int64(len(ip)))
	b.ReportAllocs()
	for b.Loop() {
		if err := dev.Write(h, ip); err != nil {
			b.Fatal(err)
		}
	}
}
