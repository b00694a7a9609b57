//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A long path without netem, which not every kernel has: a program in a
// namespace between the hosts carries frames from one interface to the other,
// late, at a limited rate and not all of them.

// line says what the path between two hosts is like, the same in both directions. The zero
// value of each field but Mbit means that there is nothing of it.
type line struct {
	Mbit  float64       // bits a second, in millions
	Delay time.Duration // one way
	// Queue is what waits at most, as the time that it takes to send; with Police nothing
	// waits, and this is the depth of a token bucket.
	Queue  time.Duration
	Police bool
	// CoDel drops by RFC 8289 what waits for long.
	CoDel bool
	// Loss is the part of the frames that is lost at random, 0 to 1, and Run how many are in a
	// row; 0 is one.
	Loss float64
	Run  int
	// Model loses frames as a model of that name does, see models.
	Model string
}

// longLine is that of the flag -long.
var longLine = line{Mbit: 50, Delay: 40 * time.Millisecond, Queue: 100 * time.Millisecond, Loss: 0.01}

// String is what a row of a table says.
func (l line) String() string {
	s := fmt.Sprintf("%v Mbit/s, %v ms", l.Mbit, 2*l.Delay.Milliseconds())
	switch {
	case l.Police:
		s += fmt.Sprintf(", policer of %v ms", l.Queue.Milliseconds())
	case l.CoDel:
		s += ", codel"
	default:
		s += fmt.Sprintf(", queue %v ms", l.Queue.Milliseconds())
	}
	switch {
	case l.Model != "":
		s += ", " + l.Model
	case l.Run > 1:
		s += fmt.Sprintf(", %v %% in runs of %d", 100*l.Loss, l.Run)
	default:
		s += fmt.Sprintf(", %v %%", 100*l.Loss)
	}
	return s
}

// frame is on its way.
type frame struct {
	due  time.Time
	data []byte
}

// relayFrames carries frames between two interfaces until reading fails.
func relayFrames(a, b string, l line) error {
	var ends [2]*port
	for i, name := range []string{a, b} {
		p, err := openPort(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ends[i] = p
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range ends {
		wg.Go(func() { errs[i] = newHop(l).carry(ends[i], ends[1-i]) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// hop is one direction of a line.
type hop struct {
	line
	rate  float64 // bytes a second
	lost  func() bool
	codel codel
	free  time.Time // when the line has sent what it was given
}

func newHop(l line) *hop { return &hop{line: l, rate: l.Mbit * 1e6 / 8, lost: l.losses()} }

// take returns when a frame of n bytes arrives that comes now; ok is false if it does not.
func (h *hop) take(now time.Time, n int) (due time.Time, ok bool) {
	if h.lost() {
		return due, false
	}
	if h.free.Before(now) {
		h.free = now
	}
	wait := h.free.Sub(now)
	if wait > h.Queue || h.CoDel && h.codel.drops(h.free, wait) {
		return due, false
	}
	h.free = h.free.Add(time.Duration(float64(n) / h.rate * 1e9))
	if h.Police {
		return now.Add(h.Delay), true
	}
	return h.free.Add(h.Delay), true
}

// carry moves frames from one end to the other.
func (h *hop) carry(from, to *port) error {
	queue := make(chan frame, 65536)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for f := range queue {
			time.Sleep(time.Until(f.due))
			to.write(f.data)
		}
	}()
	defer func() { close(queue); <-done }()
	buf := make([]byte, 65536)
	for {
		n, err := from.read(buf)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		due, ok := h.take(time.Now(), n)
		if !ok {
			continue
		}
		select {
		case queue <- frame{due: due, data: append([]byte(nil), buf[:n]...)}:
		default:
		}
	}
}

// port is a packet socket on an interface.
type port struct {
	fd    int
	index int
}

func openPort(name string) (*port, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	mreq := unix.PacketMreq{Ifindex: int32(i.Index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil {
		return nil, os.NewSyscallError("promiscuous", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	return &port{fd: fd, index: i.Index}, nil
}

// read returns the next frame that came in; 0 for one that went out.
func (p *port) read(b []byte) (int, error) {
	n, from, err := unix.Recvfrom(p.fd, b, 0)
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
		return 0, nil
	}
	return n, nil
}

// write sends a frame; one that the interface does not take is lost.
func (p *port) write(b []byte) {
	_ = unix.Sendto(p.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: p.index})
}

// plain turns off what would make frames that never were on a wire: checksums
// left open and segments joined. It is called inside the namespace.
func plain(dev string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	for _, what := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO} {
		value := struct{ cmd, data uint32 }{cmd: what}
		request, err := unix.NewIfreq(dev)
		if err != nil {
			return err
		}
		raw := struct {
			name [unix.IFNAMSIZ]byte
			data uintptr
			_    [16]byte
		}{data: uintptr(unsafe.Pointer(&value))}
		copy(raw.name[:], request.Name())
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&raw))); e != 0 && e != unix.EOPNOTSUPP {
			return os.NewSyscallError("ethtool", e)
		}
	}
	return nil
}
