package relay

import (
	"cmp"
	"errors"
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

// writeAtOnce writes what the kernel takes without waiting, which may be nothing.
func writeAtOnce(c net.Conn, b []byte) (int, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		n, failed = unix.Write(int(fd), b)
		return true
	})
	if errors.Is(failed, unix.EAGAIN) || errors.Is(failed, unix.EINTR) {
		failed = nil
	}
	return max(0, n), cmp.Or(err, failed)
}
