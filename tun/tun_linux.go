package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/nodetun/nodetun/internal/vnet"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

const clonePath = "/dev/net/tun"

// Device is an open TUN device.
type Device struct {
	name string
	log  *slog.Logger
	dev  wgtun.Device
	file *os.File
	raw  syscall.RawConn

	writers sync.Pool // of *writer
	dropped atomic.Uint64
}

// Open makes the interface, or takes over a persistent TUN interface of that
// name which nobody uses, and sets its MTU. It is gone again after Close,
// unless it was persistent.
func Open(cfg Config) (*Device, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	fd, err := create(cfg.Name)
	if err != nil {
		return nil, err
	}
	// The monitored constructors of wireguard/tun poll the link once a second
	// and would need their events drained; the link is package routing's.
	dev, name, err := wgtun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up TUN device: %w", err)
	}
	d := &Device{name: name, log: cfg.Logger, dev: dev, file: dev.File()}
	d.writers.New = func() any { return newWriter() }
	if d.raw, err = d.file.SyscallConn(); err == nil {
		err = d.setUp(cfg.MTU)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// create opens a descriptor and joins it to the interface.
func create(name string) (int, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, openError(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%w: %q", ErrBadName, name)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return -1, attachError(name, err)
	}
	return fd, nil
}

// openError explains why /dev/net/tun could not be opened.
func openError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: %s cannot be used (try: modprobe tun; in a container, pass --device %s)", ErrUnsupported, clonePath, clonePath)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s: %w (run as root or with CAP_NET_ADMIN)", ErrPermission, clonePath, err)
	}
	return fmt.Errorf("open %s: %w", clonePath, err)
}

// attachError explains why the interface could not be made.
func attachError(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w (run as root or with CAP_NET_ADMIN)", ErrPermission, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %s belongs to another program", ErrBusy, name)
	case errors.Is(err, unix.EINVAL):
		if _, lookup := net.InterfaceByName(name); lookup == nil {
			return fmt.Errorf("%w: %s exists and is no TUN device of this kind", ErrBusy, name)
		}
		return fmt.Errorf("%w: %q", ErrBadName, name)
	}
	return fmt.Errorf("create TUN device %s: %w", name, err)
}

// queueLen is how many packets of the host wait to be read, as many as on an Ethernet
// interface; by itself a TUN device has room for half as many.
const queueLen = 1000

// setUp fixes the byte order of the header and sets MTU and queue.
func (d *Device) setUp(mtu int) error {
	var err error
	control := d.raw.Control(func(fd uintptr) {
		// Little endian is the default where the machine is; older kernels
		// lack the call and have no other order there.
		_ = unix.IoctlSetPointerInt(int(fd), unix.TUNSETVNETLE, 1)
		var ifr *unix.Ifreq
		if ifr, err = unix.NewIfreq(d.name); err == nil {
			ifr.SetUint32(uint32(mtu))
			err = configure(ifr, unix.SIOCSIFMTU)
			ifr.SetUint32(queueLen)
			_ = configure(ifr, unix.SIOCSIFTXQLEN) // a shorter queue works as well
		}
	})
	if err := errors.Join(control, err); err != nil {
		return fmt.Errorf("set MTU of %s to %d: %w", d.name, mtu, err)
	}
	return nil
}

// configure makes a call about the interface by a socket of its own: the TUN descriptor
// does not know it.
func configure(ifr *unix.Ifreq, call uint) error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	return unix.IoctlIfreq(sock, call, ifr)
}

// Name is the name of the interface, as the kernel gave it.
func (d *Device) Name() string { return d.name }

// Dropped counts packets that Read threw away because their header did not
// fit them (S18). The kernel makes none.
func (d *Device) Dropped() uint64 { return d.dropped.Load() }

// Read waits for one packet, unsplit, and returns it as a part of buf, with a
// header that has passed Check. buf should have BufferSize bytes: what does
// not fit is cut off and dropped. It returns ErrClosed after Close and
// ErrRemoved when the interface is gone.
func (d *Device) Read(buf []byte) (vnet.Header, []byte, error) {
	if len(buf) <= vnet.HeaderLen {
		return vnet.Header{}, nil, ErrShortBuffer
	}
	for {
		n, err := d.file.Read(buf)
		if err != nil {
			return vnet.Header{}, nil, d.readError(err)
		}
		h, err := vnet.Parse(buf[:n])
		if err == nil {
			err = h.Check(buf[vnet.HeaderLen:n])
		}
		if err == nil {
			return h, buf[vnet.HeaderLen:n], nil
		}
		d.dropped.Add(1)
		d.log.Debug("dropped packet of the kernel", "error", err)
	}
}

// Write gives one packet, whose bytes are those of the parts one after the
// other, to the kernel. The parts are not kept. It returns ErrDown if the link
// is down, ErrClosed after Close and ErrRemoved when the interface is gone.
func (d *Device) Write(h vnet.Header, parts ...[]byte) error {
	w := d.writers.Get().(*writer)
	err := w.write(d.raw, h, parts)
	d.writers.Put(w)
	if err != nil {
		return deviceError(err)
	}
	return nil
}

// Close removes the interface and ends a Read that waits.
func (d *Device) Close() error {
	if err := d.dev.Close(); err != nil {
		return deviceError(err)
	}
	return nil
}

// readError is deviceError for reads. Go's poller may notice first that the interface
// is gone; all it says then is that the descriptor is not pollable.
func (d *Device) readError(err error) error {
	if err = deviceError(err); !errors.Is(err, ErrClosed) && d.isRemoved() {
		return ErrRemoved
	}
	return err
}

// isRemoved asks the kernel, which answers when a removal under way is over.
func (d *Device) isRemoved() bool {
	request, err := unix.NewIfreq(d.name)
	if err != nil {
		return false
	}
	var answer error
	if err := d.raw.Control(func(fd uintptr) { answer = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, request) }); err != nil {
		return false
	}
	return errors.Is(answer, unix.EBADFD)
}

// deviceError translates what the kernel and package os say of a descriptor.
func deviceError(err error) error {
	switch {
	case errors.Is(err, os.ErrClosed), errors.Is(err, ErrClosed):
		return ErrClosed
	case errors.Is(err, unix.EBADFD):
		return ErrRemoved
	case errors.Is(err, unix.EIO):
		return ErrDown
	}
	return fmt.Errorf("tun: %w", err)
}

// writer is one write to the device: header and parts in one system call,
// without copying. Writers are pooled, since the call needs memory that stays.
type writer struct {
	header [vnet.HeaderLen]byte
	parts  [][]byte
	err    error
	// call is w.run, made once: a method value costs an allocation.
	call func(fd uintptr)
}

func newWriter() *writer {
	w := &writer{parts: make([][]byte, 0, 20)}
	w.call = w.run
	return w
}

// write uses Control, not Write, of the descriptor: the latter lets only one
// goroutine in at a time. A TUN device is always ready to take a packet.
func (w *writer) write(raw syscall.RawConn, h vnet.Header, parts [][]byte) error {
	h.Put(w.header[:])
	w.parts = append(append(w.parts[:0], w.header[:]), parts...)
	err := raw.Control(w.call)
	clear(w.parts)
	if err != nil {
		// The only error of Control itself, and not one that errors.Is knows.
		return ErrClosed
	}
	return w.err
}

// run is the system call.
func (w *writer) run(fd uintptr) {
	for {
		if _, w.err = unix.Writev(int(fd), w.parts); w.err != unix.EINTR {
			return
		}
	}
}
