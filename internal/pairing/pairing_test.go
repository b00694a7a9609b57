package pairing

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
)

func TestCodes(t *testing.T) {
	for text, want := range map[string]Code{
		"123 456 789": "123456789", "123456789": "123456789", " 000-000-001\n": "000000001", "123.456,789": "123456789",
		"": "", "12345678": "", "1234567890": "", "12345678a": "", "١٢٣٤٥٦٧٨٩": "",
	} {
		got, err := ParseCode(text)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrBadCode) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	one, two := NewCode(), NewCode()
	if back, err := ParseCode(one.String()); err != nil || back != one || one == two {
		t.Errorf("codes %s and %s: %v", one, two, err)
	}
	if s := Code("123456789").String(); s != "123 456 789" {
		t.Errorf("shown as %q", s)
	}
	a, err := one.Key()
	if err != nil {
		t.Fatal(err)
	}
	b, err := one.Key()
	if err != nil || a.NodeID() != b.NodeID() {
		t.Errorf("the keys of one code: %v, %v, %v", a.NodeID(), b.NodeID(), err)
	}
	if c, _ := two.Key(); c.NodeID() == a.NodeID() {
		t.Error("two codes have one key")
	}
}

// side is what one of two learns.
type side struct {
	their, check string
	err          error
}

// meet has two sides talk over pipes of the given channels.
func meet(t *testing.T, caller, waiter net.Conn, callerChannel, waiterChannel []byte) (c, w side) {
	t.Helper()
	var both sync.WaitGroup
	both.Go(func() { c.their, c.check, c.err = Call(caller, callerChannel, "laptop") })
	both.Go(func() { w.their, w.check, w.err = Answer(waiter, waiterChannel, "nas") })
	both.Wait()
	return c, w
}

// connect returns the ends of a connection that takes what nobody reads yet, as a stream of
// QUIC does.
func connect(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMeeting(t *testing.T) {
	a, b := connect(t)
	c, w := meet(t, a, b, []byte("channel"), []byte("channel"))
	if c.err != nil || w.err != nil || c.check != w.check || len(c.check) != 7 || c.their != "nas" || w.their != "laptop" {
		t.Fatalf("%+v, %+v", c, w)
	}
	var both sync.WaitGroup
	for _, tc := range []struct {
		caller, waiter bool
		want           error
	}{{true, true, nil}, {true, false, ErrOtherSaysNo}} {
		var err error
		both.Go(func() { err = Agree(a, tc.caller) })
		both.Go(func() {
			if tc.waiter {
				_ = Agree(b, true)
				return
			}
			_, _ = Receive[Verdict](b)
			_ = Send(b, Verdict{false})
		})
		both.Wait()
		if !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

// Somebody between the two, who passes everything on, has a channel with each: the owners
// see different checks.
func TestSomebodyInBetween(t *testing.T) {
	same := 0
	for range 200 {
		a, b := connect(t)
		c, w := meet(t, a, b, []byte("channel with the caller"), []byte("channel with the waiter"))
		if c.err != nil || w.err != nil {
			t.Fatal(c.err, w.err)
		}
		if c.check == w.check {
			same++
		}
	}
	if same > 1 {
		t.Errorf("the same check %d times of 200", same)
	}
}

// A caller that chooses its nonce when it has seen the other's is found out.
func TestNonceIsKept(t *testing.T) {
	a, b := connect(t)
	go func() {
		defer a.Close()
		if Send(a, Hello{Commit: make([]byte, 32)}) == nil {
			if _, err := Receive[Hello](a); err == nil {
				_ = Send(a, Hello{Nonce: make([]byte, nonceSize)})
			}
		}
	}()
	if _, _, err := Answer(b, nil, "nas"); !errors.Is(err, ErrProtocol) {
		t.Errorf("error %v", err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 2, '{', '}'})
	f.Add([]byte{0, 15, '{', '"', 's', 'a', 'm', 'e', '"', ':', 't', 'r', 'u', 'e', '}', ' ', ' '})
	f.Add([]byte{0xff, 0xff, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if hello, err := Receive[Hello](r); err == nil && len(hello.Name)+len(hello.Nonce) > maxMessage {
			t.Errorf("%d bytes of name", len(hello.Name))
		}
		if len(b)-r.Len() > 2+maxMessage {
			t.Errorf("%d bytes were read", len(b)-r.Len())
		}
	})
}
