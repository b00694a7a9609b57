package netstack

import (
	"errors"
	"fmt"
	"net"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Errors of Dial, Accept and of flows.
var (
	// ErrRefused means that nobody listens there: an RST, or ICMP port
	// unreachable.
	ErrRefused = errors.New("connection refused")
	// ErrTimeout means that no answer came in time.
	ErrTimeout = errors.New("connection timed out")
	// ErrHostUnreachable stands for the ICMP errors about a host, and for
	// "administratively prohibited".
	ErrHostUnreachable = errors.New("host unreachable")
	// ErrNetUnreachable stands for the ICMP errors about a network.
	ErrNetUnreachable = errors.New("network unreachable")
	// ErrReset means that the other side ended the flow by RST.
	ErrReset = errors.New("connection reset")
	// ErrClosed means that the flow, or the stack, was closed on this side.
	ErrClosed = net.ErrClosed
	// ErrDecided means that a Pending was already accepted or answered.
	ErrDecided = errors.New("connection request already answered")
	// ErrGone means that the caller gave up before it was answered.
	ErrGone = errors.New("caller gave up")
	// ErrAddress means that source and destination do not go together.
	ErrAddress = errors.New("bad pair of addresses")
)

// stackError translates an error of gVisor.
func stackError(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return nil
	case *tcpip.ErrConnectionRefused:
		return ErrRefused
	case *tcpip.ErrConnectionReset:
		return ErrReset
	case *tcpip.ErrTimeout:
		return ErrTimeout
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown:
		return ErrHostUnreachable
	case *tcpip.ErrNetworkUnreachable:
		return ErrNetUnreachable
	case *tcpip.ErrAborted, *tcpip.ErrConnectionAborted, *tcpip.ErrClosedForSend, *tcpip.ErrClosedForReceive, *tcpip.ErrNotConnected:
		return ErrClosed
	}
	return fmt.Errorf("netstack: %s", err)
}
