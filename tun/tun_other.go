//go:build darwin || freebsd || openbsd || windows

package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/nodetun/nodetun/internal/vnet"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// Device is an open TUN device.
type Device struct {
	name string
	log  *slog.Logger
	dev  wgtun.Device

	// drained is closed when the events of the device have ended.
	drained chan struct{}
	buffers sync.Pool // of *buffer
	closing sync.Once

	// mu guards writes: the library takes one at a time.
	mu sync.Mutex
}

// buffer holds a packet that came in parts, and one segment with the headroom
// that the library wants.
type buffer struct {
	packet  []byte
	segment []byte
	batch   [1][]byte
}

// Open makes the interface with its MTU.
func Open(cfg Config) (*Device, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	dev, err := wgtun.CreateTUN(cfg.Name, cfg.MTU)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w (run as root or administrator)", ErrPermission, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	case errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("%w: %s", ErrBusy, cfg.Name)
	case err != nil:
		return nil, fmt.Errorf("create TUN device %s: %w", cfg.Name, err)
	}
	d := &Device{log: cfg.Logger, dev: dev, drained: make(chan struct{})}
	d.buffers.New = func() any { return new(buffer) }
	go d.drain()
	if d.name, err = dev.Name(); err != nil {
		d.Close()
		return nil, fmt.Errorf("name of TUN device: %w", err)
	}
	return d, nil
}

// drain reads the events of the device, which nobody needs, until they end.
func (d *Device) drain() {
	defer close(d.drained)
	for range d.dev.Events() {
	}
}

// Name is the name of the interface, as the system gave it.
func (d *Device) Name() string { return d.name }

// Dropped is always zero here: the system hands over no headers.
func (d *Device) Dropped() uint64 { return 0 }

// Read waits for one packet and returns it as a part of buf, with a zero
// header: it is complete. buf should have BufferSize bytes. It returns
// ErrClosed after Close.
func (d *Device) Read(buf []byte) (vnet.Header, []byte, error) {
	if len(buf) <= vnet.HeaderLen {
		return vnet.Header{}, nil, ErrShortBuffer
	}
	// The device is opened without batches (BatchSize is 1 on these systems).
	batch, sizes := [1][]byte{buf}, [1]int{}
	for {
		n, err := d.dev.Read(batch[:], sizes[:], vnet.HeaderLen)
		if err != nil {
			return vnet.Header{}, nil, deviceError(err)
		}
		if n == 1 && sizes[0] > 0 {
			return vnet.Header{}, buf[vnet.HeaderLen:][:sizes[0]], nil
		}
	}
}

// Write gives one packet, whose bytes are those of the parts one after the
// other, to the system, cut into segments and with finished checksums as the
// header asks. The parts are not kept.
func (d *Device) Write(h vnet.Header, parts ...[]byte) error {
	b := d.buffers.Get().(*buffer)
	defer d.buffers.Put(b)
	b.packet = b.packet[:0]
	for _, part := range parts {
		b.packet = append(b.packet, part...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return vnet.Split(h, b.packet, 0, func(segment []byte) error {
		b.segment = append(append(b.segment[:0], make([]byte, vnet.HeaderLen)...), segment...)
		b.batch[0] = b.segment
		if _, err := d.dev.Write(b.batch[:], vnet.HeaderLen); err != nil {
			return deviceError(err)
		}
		return nil
	})
}

// Close removes the interface and ends a Read that waits.
func (d *Device) Close() error {
	var err error
	d.closing.Do(func() { err = d.dev.Close() })
	<-d.drained
	return err
}

// deviceError translates what the library says.
func deviceError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("tun: %w", err)
}
