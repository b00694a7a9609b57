package tuntest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/tun"
)

// ip is a small packet that nothing is wrong with.
func ip(last byte) []byte {
	return []byte{0x45, 0, 0, 21, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, last}
}

func TestPair(t *testing.T) {
	a, b := Pair()
	buf := make([]byte, tun.BufferSize)
	h := vnet.Header{Flags: vnet.NeedsCsum, CsumStart: 20, CsumOffset: 0}
	if err := a.Write(h, ip(1), []byte{2, 3}); err != nil {
		t.Fatal(err)
	}
	_ = b.Write(vnet.Header{}, ip(9))
	_ = a.Write(vnet.Header{}, ip(4))
	got, packet, err := b.Read(buf)
	if err != nil || got != h || !bytes.Equal(packet, append(ip(1), 2, 3)) {
		t.Errorf("%+v % x %v", got, packet, err)
	}
	if _, packet, _ = b.Read(buf); packet[20] != 4 {
		t.Error("order changed")
	}
	if _, packet, _ = a.Read(buf); packet[20] != 9 {
		t.Error("directions mixed")
	}
	if err := a.Write(vnet.Header{HdrLen: 99}, ip(1)); !errors.Is(err, vnet.ErrBad) {
		t.Errorf("bad header: %v", err)
	}
}

func TestPairFull(t *testing.T) {
	a, b := Pair()
	for range queueLen + 3 {
		if err := a.Write(vnet.Header{}, ip(1)); err != nil {
			t.Fatal(err)
		}
	}
	if a.Dropped() != 3 || b.Dropped() != 0 {
		t.Errorf("dropped %d, %d", a.Dropped(), b.Dropped())
	}
}

func TestPairClose(t *testing.T) {
	a, b := Pair()
	ended := make(chan error, 1)
	go func() {
		_, _, err := a.Read(make([]byte, tun.BufferSize))
		ended <- err
	}()
	b.Close()
	a.Close()
	if err := <-ended; !errors.Is(err, tun.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := a.Write(vnet.Header{}, ip(1)); !errors.Is(err, tun.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if _, _, err := b.Read(nil); !errors.Is(err, tun.ErrShortBuffer) {
		t.Errorf("short buffer: %v", err)
	}
}
