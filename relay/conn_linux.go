package relay

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnsent sets TCP_NOTSENT_LOWAT. A connection without that option works
// as well, with longer queues in the kernel.
func limitUnsent(c net.Conn, n int) { setTCP(c, unix.TCP_NOTSENT_LOWAT, n) }

// setUserTimeout sets TCP_USER_TIMEOUT. Without that option a connection whose
// other end is gone lasts until a ping stays unanswered.
func setUserTimeout(c net.Conn, d time.Duration) {
	setTCP(c, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

func setTCP(c net.Conn, option, value int) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value) })
}
