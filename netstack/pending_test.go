package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func TestRefuse(t *testing.T) {
	for _, family := range families {
		for name, accept := range map[string]func(*Pending){
			"reset": func(p *Pending) { p.Reset(); p.Reset() }, "unanswered": func(*Pending) {}, "nobody": nil,
		} {
			t.Run(family.name+" "+name, func(t *testing.T) {
				p := join(t, accept)
				_, err := p.a.Dial(within(t, time.Minute), family.src, family.dst)
				if !errors.Is(err, ErrRefused) {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func TestUnreachable(t *testing.T) {
	tests := []struct {
		name   string
		reason packet.Code
		want   error
	}{
		{"no route", NoRoute, ErrNetUnreachable},
		{"host", HostUnreachable, ErrHostUnreachable},
		{"prohibited", Prohibited, ErrHostUnreachable},
		{"unknown reason", 77, ErrRefused},
	}
	for _, family := range families {
		for _, tt := range tests {
			t.Run(family.name+" "+tt.name, func(t *testing.T) {
				var answers atomic.Int64
				p := join(t, func(req *Pending) { answers.Add(1); req.Unreachable(tt.reason) })
				_, err := p.a.Dial(within(t, time.Minute), family.src, family.dst)
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v", err)
				}
				if n := answers.Load(); n != 1 {
					t.Errorf("answer number %d was believed", n)
				}
			})
		}
	}
}

func TestPendingIsAnsweredOnce(t *testing.T) {
	answered := make(chan error, 2)
	p := join(t, func(req *Pending) {
		f, err := req.Accept()
		answered <- err
		req.Reset()
		req.Unreachable(NoRoute)
		_, err = req.Accept()
		answered <- err
		f.Close()
	})
	f, err := p.a.Dial(within(t, time.Minute), families[0].src, families[0].dst)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := receive(t, answered); err != nil {
		t.Errorf("first: %v", err)
	}
	if err := receive(t, answered); !errors.Is(err, ErrDecided) {
		t.Errorf("second: %v", err)
	}
}

func TestDialTimeout(t *testing.T) {
	release := make(chan struct{})
	p := join(t, func(*Pending) { <-release })
	defer close(release)
	_, err := p.a.Dial(within(t, 100*time.Millisecond), families[0].src, families[0].dst)
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err = p.a.Dial(ctx, families[1].src, families[1].dst); !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

func TestDialAddresses(t *testing.T) {
	p := join(t, nil)
	v4, v6 := families[0], families[1]
	mapped := netip.AddrPortFrom(netip.AddrFrom16(v4.dst.Addr().As16()), 22)
	for _, ends := range [][2]netip.AddrPort{
		{v4.src, v6.dst}, {v6.src, v4.dst}, {{}, v4.dst}, {v4.src, {}}, {v6.src, mapped}, {v4.src, netip.AddrPortFrom(v4.dst.Addr(), 0)},
	} {
		if _, err := p.a.Dial(within(t, time.Second), ends[0], ends[1]); !errors.Is(err, ErrAddress) {
			t.Errorf("%v to %v: %v", ends[0], ends[1], err)
		}
	}
}

// The port of a flow may be used towards another destination at once, and towards the same
// one as soon as the flow has ended: Dial waits for that, and never takes another.
func TestDialPortTaken(t *testing.T) {
	p := join(t, func(req *Pending) {
		if f, err := req.Accept(); err == nil {
			t.Cleanup(f.Close)
		}
	})
	family := families[1]
	dial := func(ctx context.Context, dst netip.AddrPort) *Flow {
		f, err := p.a.Dial(ctx, family.src, dst)
		if err != nil {
			t.Fatal(err)
		}
		if f.LocalAddr() != family.src {
			t.Errorf("from %s, want %s", f.LocalAddr(), family.src)
		}
		return f
	}
	first := dial(within(t, time.Minute), family.dst)
	defer dial(within(t, time.Minute), netip.AddrPortFrom(family.dst.Addr(), 23)).Close()

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.a.Dial(short, family.src, family.dst); !errors.Is(err, ErrTimeout) {
		t.Errorf("while the flow lives: %v", err)
	}
	again := make(chan error)
	go func() {
		f, err := p.a.Dial(within(t, time.Minute), family.src, family.dst)
		if err == nil {
			f.Close()
		}
		again <- err
	}()
	first.Abort()
	if err := receive(t, again); err != nil {
		t.Errorf("once it has ended: %v", err)
	}
}

func TestDialAnyPort(t *testing.T) {
	p := join(t, func(req *Pending) {
		if f, err := req.Accept(); err == nil {
			t.Cleanup(f.Close)
		}
	})
	f, err := p.a.Dial(within(t, time.Minute), netip.AddrPortFrom(families[0].src.Addr(), 0), families[0].dst)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.LocalAddr().Port() == 0 {
		t.Error("no port")
	}
}

// synPacket makes a SYN with partial checksum.
func synPacket(src, dst netip.AddrPort, seq uint32, flags byte) (vnet.Header, []byte) {
	ip := make([]byte, 20, 40)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], 40)
	if src.Addr().Is6() {
		ip = make([]byte, 40, 60)
		ip[0], ip[5], ip[6], ip[7] = 0x60, 20, 6, 64
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
	} else {
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
	}
	l4 := make([]byte, 20)
	binary.BigEndian.PutUint16(l4, src.Port())
	binary.BigEndian.PutUint16(l4[2:], dst.Port())
	binary.BigEndian.PutUint32(l4[4:], seq)
	l4[12], l4[13], l4[14] = 0x50, flags, 0xff
	binary.BigEndian.PutUint16(l4[16:], vnet.PseudoSum(ip, 6, 20))
	h := vnet.Header{Flags: vnet.NeedsCsum, HdrLen: uint16(len(ip) + 20), CsumStart: uint16(len(ip)), CsumOffset: 16}
	return h, append(ip, l4...)
}

// lone is a stack whose packets are collected.
type lone struct {
	*Stack
	mu   sync.Mutex
	sent [][]byte
}

func newLone(t testing.TB, accept func(*Pending)) *lone {
	t.Helper()
	l := &lone{}
	var err error
	l.Stack, err = New(Config{Accept: accept, Write: func(_ vnet.Header, parts ...[]byte) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sent = append(l.sent, slices.Concat(parts...))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// flags counts the segments sent with exactly these flags.
func (l *lone) flags(flags byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, ip := range l.sent {
		l4 := 20
		if ip[0]>>4 == 6 {
			l4 = 40
		}
		if ip[l4+13] == flags {
			n++
		}
	}
	return n
}

const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// A caller that gives up says nothing; its SYNs no longer come. (The time of a
// test bubble does not pass while gVisor's processors wait, so this is without
// a stack.)
func TestCallerGivesUp(t *testing.T) {
	tests := []struct {
		name string
		// syns are the seconds at which the SYN comes.
		syns []int
		gone time.Duration
	}{
		{"once", []int{0}, 5 * time.Second},
		{"Linux", []int{0, 1, 2, 3, 4, 5, 7, 11, 19, 35}, (35 + 33) * time.Second},
		{"Windows", []int{0, 3, 9}, (9 + 13) * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				p := newPending(nil, stack.TransportEndpointID{}, 7)
				for _, at := range tt.syns {
					time.Sleep(time.Until(begin.Add(time.Duration(at) * time.Second)))
					if p.left() {
						t.Fatalf("given up after %v", time.Since(begin))
					}
					if at > 0 {
						p.again(7)
					}
				}
				<-p.Done()
				if after := time.Since(begin); after != tt.gone {
					t.Errorf("given up after %v, want %v", after, tt.gone)
				}
				p.again(7)
			})
		})
	}
}

// A caller that never acknowledges the answer to its SYN is not waited for.
func TestCallerStaysDumb(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			gone := make(chan error, 1)
			l := newLone(t, func(p *Pending) {
				_, err := p.Accept()
				gone <- err
			})
			defer l.Close()
			l.acceptWait = 100 * time.Millisecond
			l.Inject(synPacket(family.src, family.dst, 1, flagSYN))
			if err := receive(t, gone); !errors.Is(err, ErrGone) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A caller that takes its connection back while that is being made, and opens another one from
// the same port at once, is not refused.
func TestPortUsedAgainAtOnce(t *testing.T) {
	l := newLone(t, func(p *Pending) {
		if f, err := p.Accept(); err == nil {
			f.Close()
		}
	})
	defer l.Close()
	const times, first, second = 300, 1, 5000
	family := families[1]
	// heard is how many segments with these flags acknowledge a SYN of the caller.
	heard := func(port uint16, flags byte, seq uint32) (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, ip := range l.sent {
			segment := ip[40:]
			if binary.BigEndian.Uint16(segment[2:]) == port && segment[13] == flags && binary.BigEndian.Uint32(segment[8:]) == seq+1 {
				n++
			}
		}
		return n
	}
	for i := range uint16(times) {
		src := netip.AddrPortFrom(family.src.Addr(), 20000+i)
		l.Inject(synPacket(src, family.dst, first, flagSYN))
		for began := time.Now(); heard(src.Port(), flagSYN|flagACK, first) == 0; time.Sleep(50 * time.Microsecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatal("no answer")
			}
		}
		l.Inject(synPacket(src, family.dst, first+1, flagRST))
		l.Inject(synPacket(src, family.dst, second, flagSYN))
	}
	time.Sleep(50 * time.Millisecond) // what is in queues
	refused := 0
	for i := range uint16(times) {
		refused += heard(20000+i, flagRST|flagACK, second)
	}
	if refused > 0 {
		t.Errorf("%d of %d were refused", refused, times)
	}
}

func TestCallerCallsAnew(t *testing.T) {
	requests, gone := make(chan *Pending, 4), make(chan struct{}, 4)
	l := newLone(t, func(req *Pending) {
		requests <- req
		<-req.Done()
		gone <- struct{}{}
		if _, err := req.Accept(); !errors.Is(err, ErrGone) {
			t.Errorf("accept: %v", err)
		}
	})
	defer l.Close()
	ends := families[1]
	l.Inject(synPacket(ends.src, ends.dst, 7, flagSYN))
	first := receive(t, requests)
	if first.Src() != ends.src || first.Dst() != ends.dst {
		t.Errorf("%v to %v", first.Src(), first.Dst())
	}
	// Repetitions change nothing, another attempt does.
	l.Inject(synPacket(ends.src, ends.dst, 7, flagSYN))
	l.Inject(synPacket(ends.src, ends.dst, 8000, flagSYN))
	receive(t, gone)
	// Its repetition is a request of its own once the first one's place is free.
	for again := true; again; {
		l.Inject(synPacket(ends.src, ends.dst, 8000, flagSYN))
		select {
		case <-requests:
			again = false
		case <-time.After(time.Millisecond):
		}
	}
	// RST takes it back.
	l.Inject(synPacket(ends.src, ends.dst, 8000, flagRST))
	receive(t, gone)
}

// The attack: a flood of SYNs. What is beyond the limit gets an answer, and
// nothing is left when the stack closes.
func TestTooManyPending(t *testing.T) {
	l := newLone(t, func(req *Pending) { <-req.Done() })
	for i := range maxPending + 10 {
		src := netip.AddrPortFrom(families[0].src.Addr(), uint16(1000+i))
		l.Inject(synPacket(src, families[0].dst, 1, flagSYN))
	}
	if got := l.Counters().Overflow; got != 10 {
		t.Errorf("overflow %d", got)
	}
	if got := l.flags(flagRST | flagACK); got != 10 {
		t.Errorf("%d RST", got)
	}
	l.Close()
}

// A handler that goes on to serve its flow takes no place of a request.
func TestServedFlowIsNotPending(t *testing.T) {
	serving := make(chan struct{})
	p := join(t, func(req *Pending) {
		f, err := req.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		serving <- struct{}{}
		_, _ = f.Read(make([]byte, 1))
	})
	f, err := p.a.Dial(within(t, time.Minute), families[0].src, families[0].dst)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	receive(t, serving)
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if len(p.b.pending) > 0 {
		t.Errorf("%d requests pending", len(p.b.pending))
	}
}

// Segments of no connection get RST; odd combinations of flags are no SYN.
func TestStraySegments(t *testing.T) {
	l := newLone(t, func(*Pending) { t.Error("a request came of it") })
	defer l.Close()
	for _, flags := range []byte{flagACK, flagSYN | flagACK, flagSYN | flagFIN, flagFIN} {
		before := l.flags(flagRST) + l.flags(flagRST|flagACK)
		l.Inject(synPacket(families[0].src, families[0].dst, 1, flags))
		if got := l.flags(flagRST) + l.flags(flagRST|flagACK); got != before+1 {
			t.Errorf("flags %#x: %d RST", flags, got-before)
		}
	}
	l.Inject(synPacket(families[0].src, families[0].dst, 1, flagRST))
	if got := l.flags(flagRST) + l.flags(flagRST|flagACK); got != 4 {
		t.Error("RST was answered")
	}
}
