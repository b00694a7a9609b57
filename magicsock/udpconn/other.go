//go:build !linux

package udpconn

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
)

// MaxBatch is the number of messages that one Read takes from the kernel.
const MaxBatch = 1

const errAddrInUse = syscall.EADDRINUSE

// receiver needs no memory here.
type receiver struct{}

func (*receiver) init() {}

func isNoGSO(error) bool { return false }

// isSizeError compares the text on Windows, where WSAEMSGSIZE has no portable
// name.
func isSizeError(err error) bool {
	if runtime.GOOS == "windows" {
		return strings.Contains(err.Error(), "larger than")
	}
	return errors.Is(err, syscall.EMSGSIZE)
}

func isSegmentError(err error) bool { return isSizeError(err) }

func setMark(syscall.RawConn, uint32) error { return errors.ErrUnsupported }

func setOptions(s *socket) error {
	s.noGSO.Store(true)
	return errors.Join(s.SetReadBuffer(BufferSize), s.SetWriteBuffer(BufferSize))
}

// AppendTOS appends nothing: the ECN field does not travel on this system.
func AppendTOS(b []byte, _ uint8, _ bool) []byte { return b }

// ParseControl knows no control message on this system.
func ParseControl([]byte) Control { return Control{} }

// receive reads one packet. Without wait it finds only what is there already.
func (c *Conn) receive(s *socket, ms []Message, wait bool) (int, error) {
	if !wait {
		return 0, nil
	}
	n, from, err := s.ReadFromUDPAddrPort(ms[0].Buf)
	if err != nil {
		if runtime.GOOS == "windows" && !errors.Is(err, net.ErrClosed) && !isTimeout(err) {
			return 0, nil // an ICMP answer to an earlier send, reported here
		}
		return 0, err
	}
	ms[0].N, ms[0].Seg, ms[0].TOS = n, n, 0
	ms[0].From = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	c.stats.received(ms[:1])
	return 1, nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (s *socket) sendmsg(b []byte, _ int, _ uint8, to netip.AddrPort, _ netip.Addr) error {
	_, err := s.WriteToUDPAddrPort(b, to)
	return err
}
