package netstack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
)

func TestNewRefuses(t *testing.T) {
	write := func(vnet.Header, ...[]byte) error { return nil }
	for name, cfg := range map[string]Config{
		"no Write": {}, "small MTU": {Write: write, MTU: 1279}, "large MTU": {Write: write, MTU: 65001},
	} {
		if s, err := New(cfg); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// Close ends whatever is going on: flows in every state, dials, handshakes
// whose other side fell silent, requests nobody has answered.
func TestClose(t *testing.T) {
	results := make(chan error, 16)
	held := make(chan struct{}, 16)
	p := join(t, func(req *Pending) {
		if req.Dst().Port() == 1 {
			held <- struct{}{}
			<-req.Done()
			return
		}
		f, err := req.Accept()
		if err != nil {
			results <- err
			return
		}
		if req.Dst().Port() == 2 {
			_ = f.CloseWrite()
		}
		_, err = f.Read(make([]byte, 1))
		f.Close()
		results <- err
	})
	src, dst := families[1].src.Addr(), families[1].dst.Addr()
	to := func(port uint16) (*Flow, error) {
		return p.a.Dial(within(t, time.Minute), netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, port))
	}
	open, err := to(3)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	half, err := to(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := half.Read(make([]byte, 1)); err == nil {
		t.Error("read something")
	}
	half.Close() // goes through TIME_WAIT
	receive(t, results)
	dialled := make(chan error, 1)
	go func() { _, err := to(1); dialled <- err }()
	receive(t, held)
	// A handshake without its last segment.
	h, syn := synPacket(netip.AddrPortFrom(src, 5), netip.AddrPortFrom(dst, 4), 1, flagSYN)
	p.b.Inject(h, syn)

	p.b.Close()
	p.b.Close()
	if err := receive(t, results); err == nil {
		t.Error("a flow survived")
	}
	p.a.Close()
	if err := receive(t, dialled); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrRefused) {
		t.Errorf("dial: %v", err)
	}
	if _, err := open.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
	if _, err := to(3); !errors.Is(err, ErrClosed) {
		t.Errorf("dial after Close: %v", err)
	}
	p.b.Inject(h, syn)
}

func TestInjectFilters(t *testing.T) {
	l := newLone(t, func(*Pending) { t.Error("a request came of it") })
	defer l.Close()
	h, syn := synPacket(families[0].src, families[0].dst, 1, flagSYN)
	h6, syn6 := synPacket(families[1].src, families[1].dst, 1, flagSYN)
	change := func(ip []byte, at int, value byte) []byte {
		ip = append([]byte(nil), ip...)
		ip[at] = value
		return ip
	}
	for name, p := range map[string]struct {
		h  vnet.Header
		ip []byte
	}{
		"nothing":                {h, nil},
		"UDP":                    {vnet.Header{}, change(syn, 9, 17)},
		"echo request":           {vnet.Header{}, change(change(syn, 9, 1), 20, 8)},
		"ICMP redirect":          {vnet.Header{}, change(change(syn, 9, 1), 20, 5)},
		"ICMPv6 over IPv4":       {vnet.Header{}, change(syn, 9, 58)},
		"first fragment":         {vnet.Header{}, change(syn, 6, 0x20)},
		"later fragment":         {vnet.Header{}, change(syn, 7, 1)},
		"UDP over IPv6":          {vnet.Header{}, change(syn6, 6, 17)},
		"neighbour solicitation": {vnet.Header{}, change(change(syn6, 6, 58), 40, 135)},
		"router advertisement":   {vnet.Header{}, change(change(syn6, 6, 58), 40, 134)},
		"fragment header":        {vnet.Header{}, change(syn6, 6, 44)},
		"routing header":         {vnet.Header{}, change(syn6, 6, 43)},
		"short ICMP":             {vnet.Header{}, change(syn, 9, 1)[:24]},
		"header that lies":       {vnet.Header{Flags: vnet.NeedsCsum, CsumStart: 60000}, syn},
	} {
		before := l.Counters().Filtered
		l.Inject(p.h, p.ip)
		if l.Counters().Filtered != before+1 {
			t.Errorf("%s was not filtered", name)
		}
	}
	l.Inject(vnet.Header{}, syn)
	l.Inject(vnet.Header{}, syn6)
	if got := l.Counters().BadChecksum; got != 2 {
		t.Errorf("%d bad checksums", got)
	}
	_ = h6
	if len(l.sent) > 0 {
		t.Errorf("%d packets were sent", len(l.sent))
	}
}

// Checksums are verified unless the kernel vouches for them.
func TestInjectChecksum(t *testing.T) {
	requests := make(chan *Pending, 4)
	l := newLone(t, func(req *Pending) { requests <- req })
	defer l.Close()
	for i, vouched := range []bool{false, true} {
		src := netip.AddrPortFrom(families[1].src.Addr(), uint16(i+1))
		h, syn := synPacket(src, families[1].dst, 1, flagSYN)
		if vouched {
			h = vnet.Header{Flags: vnet.DataValid}
		} else {
			vnet.Finish(h, syn)
			h = vnet.Header{}
		}
		l.Inject(h, syn)
		if got := receive(t, requests); got.Src() != src {
			t.Errorf("request from %v", got.Src())
		}
	}
}

// An ICMP error fails the dial it quotes, and no other one; open flows do not
// mind it.
func TestICMPErrors(t *testing.T) {
	tests := []struct {
		family     int
		kind, code byte
		want       error
	}{
		{0, 3, 0, ErrNetUnreachable},
		{0, 3, 1, ErrHostUnreachable},
		{0, 3, 3, ErrRefused},
		{0, 3, 9, ErrNetUnreachable},
		{0, 3, 13, ErrHostUnreachable},
		{1, 1, 0, ErrNetUnreachable},
		{1, 1, 1, ErrHostUnreachable},
		{1, 1, 3, ErrHostUnreachable},
		{1, 1, 4, ErrRefused},
		{1, 1, 6, ErrNetUnreachable},
	}
	for _, tt := range tests {
		ends := families[tt.family]
		l := newLone(t, nil)
		result := make(chan error, 1)
		go func() {
			_, err := l.Dial(within(t, time.Minute), ends.src, ends.dst)
			result <- err
		}()
		var syn []byte
		for syn == nil {
			l.mu.Lock()
			if len(l.sent) > 0 {
				syn = l.sent[0]
			}
			l.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		// The errors come in this order: about another port, cut off, right.
		l4 := 20 * (tt.family + 1)
		message := packet.AppendUnreachable(nil, syn, packet.NoRoute, ends.dst.Addr())
		message[l4], message[l4+1] = tt.kind, tt.code
		other := append([]byte(nil), message...)
		binary.BigEndian.PutUint16(other[2*l4+8:], 1)
		for _, m := range [][]byte{other, message[:2*l4+8+3], message[:l4+8+8], message} {
			l.Inject(vnet.Header{}, m)
		}
		if err := receive(t, result); !errors.Is(err, tt.want) {
			t.Errorf("%s type %d code %d: %v", ends.name, tt.kind, tt.code, err)
		}
		l.Close()
	}
}

func FuzzInject(f *testing.F) {
	for _, ends := range families {
		h, syn := synPacket(ends.src, ends.dst, 1, flagSYN)
		f.Add(h.Append(nil), syn)
		f.Add(vnet.Header{}.Append(nil), packet.AppendUnreachable(nil, syn, packet.HostUnreachable, ends.dst.Addr()))
	}
	l := newLone(f, func(*Pending) {})
	f.Cleanup(l.Close)
	f.Fuzz(func(t *testing.T, header, ip []byte) {
		h, err := vnet.Parse(header)
		if err != nil {
			return
		}
		l.Inject(h, ip)
		h.Flags |= vnet.DataValid
		l.Inject(h, ip)
	})
}
