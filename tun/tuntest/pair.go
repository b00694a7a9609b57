package tuntest

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/tun"
)

// queueLen is how many packets wait in one direction: eight times the
// kernel's, since goroutines of a busy test machine are slower to come by.
const queueLen = 4096

// packet is a written packet on its way.
type packet struct {
	header vnet.Header
	ip     []byte
}

// Device is one end of a pair.
type Device struct {
	in, out chan packet
	// gone is closed by the first Close of either end.
	gone    chan struct{}
	closing *sync.Once
	dropped atomic.Uint64
}

// Pair makes two ends: what is written to one is read from the other.
func Pair() (a, b *Device) {
	ab, ba := make(chan packet, queueLen), make(chan packet, queueLen)
	gone, closing := make(chan struct{}), new(sync.Once)
	return &Device{in: ba, out: ab, gone: gone, closing: closing}, &Device{in: ab, out: ba, gone: gone, closing: closing}
}

// Name is that of the end, as a real device has one.
func (d *Device) Name() string { return "tuntest" }

// Dropped counts the packets written to this end that found the queue full.
func (d *Device) Dropped() uint64 { return d.dropped.Load() }

// Read waits for a packet that was written to the other end and returns it as
// a part of buf, behind room for its header. It returns tun.ErrClosed after
// Close of either end.
func (d *Device) Read(buf []byte) (vnet.Header, []byte, error) {
	if len(buf) <= vnet.HeaderLen {
		return vnet.Header{}, nil, tun.ErrShortBuffer
	}
	select {
	case p := <-d.in:
		n := copy(buf[vnet.HeaderLen:], p.ip)
		return p.header, buf[vnet.HeaderLen:][:n], nil
	case <-d.gone:
		return vnet.Header{}, nil, tun.ErrClosed
	}
}

// Write sends one packet to the other end, or drops it when too many wait
// there. A header that does not fit the packet is an error, as it is to the
// kernel.
func (d *Device) Write(h vnet.Header, parts ...[]byte) error {
	ip := slices.Concat(parts...)
	if err := h.Check(ip); err != nil {
		return err
	}
	select {
	case <-d.gone:
		return tun.ErrClosed
	default:
	}
	select {
	case d.out <- packet{h, ip}:
	default:
		d.dropped.Add(1)
	}
	return nil
}

// Close ends both directions of the pair.
func (d *Device) Close() error {
	d.closing.Do(func() { close(d.gone) })
	return nil
}
