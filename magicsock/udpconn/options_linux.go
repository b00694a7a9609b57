package udpconn

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

const errAddrInUse = unix.EADDRINUSE

// isNoGSO recognises the answer of a device that cannot segment: udp_send_skb
// yields EIO where transmit checksums are not offloaded, udp(7).
func isNoGSO(err error) bool { return errors.Is(err, unix.EIO) }

// isSizeError recognises a packet that the link does not take.
func isSizeError(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

// isSegmentError recognises segments that the link does not take: older
// kernels say EINVAL, newer ones EMSGSIZE.
func isSegmentError(err error) bool { return isSizeError(err) || errors.Is(err, unix.EINVAL) }

func setMark(rc syscall.RawConn, mark uint32) error {
	return control(rc, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
}

// setOptions asks for all that makes the socket good for QUIC. What fails is
// reported together; the socket works without any of it.
func setOptions(s *socket) error {
	level, recvTOS, recvInfo, discover, probe := unix.IPPROTO_IP, unix.IP_RECVTOS, unix.IP_PKTINFO, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if s.is6 {
		level, recvTOS, recvInfo, discover, probe = unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, unix.IPV6_RECVPKTINFO, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	return control(s.raw, func(fd int) error {
		var errs []error
		set := func(name string, level, option, value int) {
			if err := unix.SetsockoptInt(fd, level, option, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
		set("receive tos", level, recvTOS, 1)
		set("receive info", level, recvInfo, 1)
		// Don't fragment, and EMSGSIZE only from the link itself: the kernel's
		// guess of the path MTU is not asked.
		set("mtu discover", level, discover, probe)
		setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
		setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
		// Kernels before 5.0 lack it: then each packet comes by itself.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		if _, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT); err != nil {
			s.noGSO.Store(true)
		}
		return errors.Join(errs...)
	})
}

// setBuffer passes the limit of the system where that is permitted, and takes
// what the limit leaves otherwise.
func setBuffer(fd, force, plain int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, BufferSize) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, BufferSize)
	}
}

func control(rc syscall.RawConn, f func(fd int) error) error {
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
