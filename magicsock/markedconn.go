package magicsock

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// isMarked says that packets to a mapped address are marked.
func isMarked(addr *net.UDPAddr) bool { return addr.Port >= nodemap.MappedPort+markedPorts }

// markedAddr is the mapped address by which marked packets of a node arrive.
func markedAddr(a netip.AddrPort) netip.AddrPort {
	if a.Port() < nodemap.MappedPort+markedPorts {
		return netip.AddrPortFrom(a.Addr(), a.Port()+markedPorts)
	}
	return a
}

// MarkedConn is a second path to every node as QUIC sees it, by which connections leave
// behind what they know of the first (internal/outage): what is written to a node goes
// the same way as by PacketConn, marked. It yields no packets: PacketConn reads all that
// arrive. Make it with [Conn.MarkedConn].
type MarkedConn struct {
	pc *PacketConn

	end  sync.Once
	over chan struct{} // closed when reading ends
}

var _ net.PacketConn = (*MarkedConn)(nil)

// MarkedConn returns a new view on the socket.
func (c *Conn) MarkedConn() *MarkedConn {
	return &MarkedConn{pc: c.pc, over: make(chan struct{})}
}

// WriteMsgUDP is that of PacketConn. It changes b.
func (m *MarkedConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	return m.pc.write(b, oob, addr.AddrPort(), true)
}

// WriteTo is that of PacketConn. It changes b.
func (m *MarkedConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Addr: addr, Err: syscall.EAFNOSUPPORT}
	}
	n, _, err := m.WriteMsgUDP(b, nil, udp)
	return n, err
}

// ReadBatch waits for SetReadDeadline, Close or the end of the Conn.
func (m *MarkedConn) ReadBatch([]ipv4.Message, int) (int, error) { return 0, m.wait() }

// ReadFrom waits as ReadBatch does.
func (m *MarkedConn) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, m.wait() }

// ReadMsgUDP waits as ReadBatch does.
func (m *MarkedConn) ReadMsgUDP(_, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	return 0, 0, 0, nil, m.wait()
}

func (m *MarkedConn) wait() error {
	select {
	case <-m.over:
		return os.ErrDeadlineExceeded
	case <-m.pc.c.closed:
		return net.ErrClosed
	}
}

// SetReadDeadline ends all reading unless t is zero: there is nothing to wait for.
func (m *MarkedConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		m.end.Do(func() { close(m.over) })
	}
	return nil
}

// SetDeadline is SetReadDeadline.
func (m *MarkedConn) SetDeadline(t time.Time) error { return m.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes never wait for long.
func (m *MarkedConn) SetWriteDeadline(time.Time) error { return nil }

// Close ends reading. The Conn stays open.
func (m *MarkedConn) Close() error { return m.SetReadDeadline(longAgo) }

// LocalAddr is that of PacketConn.
func (m *MarkedConn) LocalAddr() net.Addr { return m.pc.LocalAddr() }

// SyscallConn is that of PacketConn.
func (m *MarkedConn) SyscallConn() (syscall.RawConn, error) { return m.pc.SyscallConn() }

// SetReadBuffer does nothing: the buffers have their size from the start.
func (m *MarkedConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing, like SetReadBuffer.
func (m *MarkedConn) SetWriteBuffer(int) error { return nil }
