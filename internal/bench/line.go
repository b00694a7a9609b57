//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
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

// The long path of the table: 50 Mbit/s, 80 ms there and back, 1 % of the frames
// lost each way.
const (
	longRate  = 50e6 / 8
	longDelay = 40 * time.Millisecond
	longLoss  = 0.01
)

// lineQueue is what waits for the line at most: 100 ms at 50 Mbit/s.
const lineQueue = 625_000

// line is one direction.
type line struct {
	rate  float64       // bytes a second
	delay time.Duration // one way
	loss  float64       // 0 to 1
}

// frame is on its way.
type frame struct {
	due  time.Time
	data []byte
}

// relayFrames carries frames between two interfaces until reading fails.
func relayFrames(a, b string, rate float64, delay time.Duration, loss float64) error {
	var ends [2]*port
	for i, name := range []string{a, b} {
		p, err := openPort(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ends[i] = p
	}
	l := line{rate: rate, delay: delay, loss: loss}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range ends {
		wg.Go(func() { errs[i] = l.carry(ends[i], ends[1-i]) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// carry moves frames from one end to the other.
func (l line) carry(from, to *port) error {
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
	var free time.Time // when the line has sent what it was given
	buf := make([]byte, 65536)
	for {
		n, err := from.read(buf)
		if err != nil {
			return err
		}
		now := time.Now()
		if n == 0 || rand.Float64() < l.loss {
			continue
		}
		if free.Before(now) {
			free = now
		}
		if free.Sub(now).Seconds()*l.rate > lineQueue {
			continue
		}
		free = free.Add(time.Duration(float64(n) / l.rate * 1e9))
		select {
		case queue <- frame{due: free.Add(l.delay), data: append([]byte(nil), buf[:n]...)}:
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
