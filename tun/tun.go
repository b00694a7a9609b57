package tun

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nodetun/nodetun/internal/vnet"
)

// BufferSize is the length in bytes of a buffer that Read can always use
// fully: a header and the longest packet.
const BufferSize = vnet.HeaderLen + vnet.MaxPacket

// Errors of Open; each comes with one line that says what to do.
var (
	// ErrUnsupported means that this system offers no TUN devices.
	ErrUnsupported = errors.New("no TUN devices on this system")
	// ErrPermission means that the process may not make one.
	ErrPermission = errors.New("not allowed to create a TUN device")
	// ErrBusy means that the name is taken.
	ErrBusy = errors.New("interface name is in use")
	// ErrBadName means that the name can be no interface's name.
	ErrBadName = errors.New("bad interface name")
	// ErrBadMTU means that the MTU is out of range.
	ErrBadMTU = errors.New("bad MTU")
)

// Errors of Read and Write.
var (
	// ErrClosed means that Close was called.
	ErrClosed = errors.New("tun: device closed")
	// ErrRemoved means that the interface is gone, for instance by
	// `ip link delete`: the device must be opened anew.
	ErrRemoved = errors.New("tun: interface was removed")
	// ErrDown means that the link is down: the packet was dropped.
	ErrDown = errors.New("tun: link is down")
	// ErrShortBuffer means that the buffer given to Read is too short to be
	// of use.
	ErrShortBuffer = errors.New("tun: buffer too short")
)

// MTU limits. An IPv6 link carries at least 1280 bytes (RFC 8200 section 5).
const (
	minMTU = 1280
	maxMTU = 65000
)

// Config says how to open a device.
type Config struct {
	// Name of the interface: 1 to 15 bytes. Empty leaves the choice to the
	// kernel. macOS takes utun and utunN only.
	Name string
	// MTU in bytes, 1280 to 65000.
	MTU int
	// Logger; nil for none.
	Logger *slog.Logger
}

// check validates and fills in defaults.
func (c *Config) check() error {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return fmt.Errorf("%w: %d (%d to %d are possible)", ErrBadMTU, c.MTU, minMTU, maxMTU)
	}
	return checkName(c.Name)
}

// maxName is IFNAMSIZ without its terminating zero.
const maxName = 15

// checkName refuses what the kernel would refuse (dev_valid_name), and the
// patterns it would expand.
func checkName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("/:%", r) }
	if len(name) > maxName || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%w: %q (at most %d bytes, without spaces, / : %%)", ErrBadName, name, maxName)
	}
	return nil
}
