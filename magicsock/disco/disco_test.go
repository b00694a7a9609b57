package disco

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"github.com/nodetun/nodetun/identity"
)

// testKey makes the identity of 31 zero bytes and a last one.
func testKey(t testing.TB, last byte) *identity.SecretKey {
	t.Helper()
	key, err := identity.SecretKeyFromSeed(append(make([]byte, 31), last))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sharedAB(t testing.TB) (a *identity.SecretKey, shared SharedKey) {
	t.Helper()
	a = testKey(t, 1)
	shared, err := NewSharedKey(a, testKey(t, 2).NodeID())
	if err != nil {
		t.Fatal(err)
	}
	return a, shared
}

var testTx = TxID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

func TestKnownAnswers(t *testing.T) {
	a, shared := sharedAB(t)
	if got := hex.EncodeToString(shared[:]); got != "4aeb427cad73a229ba646968a2f7fb9d1db87266a8a19d8542f0b8d0dce5c84a" {
		t.Errorf("shared key = %s", got)
	}
	var nonce [nonceLen]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	_, polyKey := keyStream(&shared, nonce[:])
	if got := hex.EncodeToString(polyKey[:]); got != "fc820c7fce2296de04528b53cdd5679aa602a00aa1cebdbb0758aaa6244ec492" {
		t.Errorf("poly1305 key = %s", got)
	}
	b := appendSealed(nil, a.NodeID(), &shared, &nonce, &Ping{TxID: testTx, Node: a.NodeID()})
	want := "5453f09f92ac" + a.NodeID().Hex() + "0f6c8601389c45b5a67dad415c20f858" +
		"fc48a312dabcd75a39fbe95b52d26befb867acb00767a9c3cc67e42b2775659ebadfa08ee4e4905d23890e7da912" +
		"000102030405060708090a0b0c0d0e0f1011121314151617"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("ping packet = %s\nwant %s", got, want)
	}
	if len(b) != 124 || PingLen != 124 {
		t.Errorf("length = %d, PingLen = %d, want 124", len(b), PingLen)
	}
}

func TestPlaintexts(t *testing.T) {
	pong := (&Pong{TxID: testTx, Src: netip.MustParseAddrPort("192.0.2.7:41641")}).append(nil)
	if got := hex.EncodeToString(pong); got != "02000102030405060708090a0b0c0000000000000000000000ffffc0000207a9a2" {
		t.Errorf("pong = %s", got)
	}
}

func messages(t testing.TB) map[string]Message {
	t.Helper()
	relay, err := identity.ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Message{
		"ping":          &Ping{TxID: testTx, Node: testKey(t, 1).NodeID()},
		"padded ping":   &Ping{TxID: testTx, Node: testKey(t, 1).NodeID(), Pad: 1200 - PingLen},
		"pong, IPv4":    &Pong{TxID: testTx, Src: netip.MustParseAddrPort("192.0.2.7:41641")},
		"pong, IPv6":    &Pong{TxID: testTx, Src: netip.MustParseAddrPort("[2001:db8::1]:1")},
		"pong, relay":   &Pong{TxID: testTx, Relay: relay},
		"call-me-maybe": &CallMeMaybe{Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:1"), netip.MustParseAddrPort("[2001:db8::1]:65535")}},
		"empty call":    &CallMeMaybe{Addrs: []netip.AddrPort{}},
	}
}

func TestRoundTrip(t *testing.T) {
	a, shared := sharedAB(t)
	for name, m := range messages(t) {
		t.Run(name, func(t *testing.T) {
			b := Append(nil, a.NodeID(), &shared, m)
			if !Is(b) || Sender(b) != a.NodeID() {
				t.Errorf("Is = %v, Sender = %x", Is(b), Sender(b))
			}
			got, err := Open(&shared, b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, m) {
				t.Errorf("got %+v, want %+v", got, m)
			}
		})
	}
}

func TestPaddedPingSize(t *testing.T) {
	a, shared := sharedAB(t)
	b := Append(nil, a.NodeID(), &shared, &Ping{TxID: testTx, Node: a.NodeID(), Pad: 1200 - PingLen})
	if len(b) != 1200 {
		t.Errorf("length = %d, want 1200", len(b))
	}
}

// Every flipped bit and every cut is noticed.
func TestTampering(t *testing.T) {
	a, shared := sharedAB(t)
	whole := Append(nil, a.NodeID(), &shared, &Ping{TxID: testTx, Node: a.NodeID()})
	for i := headerLen; i < len(whole); i++ {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if _, err := Open(&shared, b); !errors.Is(err, ErrBox) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for n := headerLen; n < len(whole); n++ {
		if _, err := Open(&shared, bytes.Clone(whole[:n])); err == nil {
			t.Fatalf("cut to %d bytes: opened", n)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		plain []byte
		want  error
	}{
		{"empty", nil, ErrMalformed},
		{"type only", []byte{1}, ErrMalformed},
		{"unknown type", []byte{9, 0}, ErrUnknownType},
		{"unknown version", []byte{1, 1}, ErrUnknownType},
		{"short ping", append([]byte{1, 0}, make([]byte, pingLen-1)...), ErrMalformed},
		{"short pong", append([]byte{2, 0}, make([]byte, 12)...), ErrMalformed},
		{"pong with a long address", append([]byte{2, 0}, make([]byte, 13+19)...), ErrMalformed},
		{"pong of unknown kind", append(append([]byte{2, 0}, make([]byte, 12)...), 7), ErrMalformed},
		{"pong with a bad relay", append(append(append([]byte{2, 0}, make([]byte, 12)...), 1), "ftp://x"...), ErrMalformed},
		{"call-me-maybe of odd length", append([]byte{3, 0}, make([]byte, 19)...), ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if m, err := parseMessage(tc.plain); !errors.Is(err, tc.want) {
				t.Errorf("%+v, %v, want %v", m, err, tc.want)
			}
		})
	}
}

// S9: no more than 32 addresses of one message are kept.
func TestCallMeMaybeBounded(t *testing.T) {
	m, err := parseMessage(append([]byte{typeCallMeMaybe, 0}, make([]byte, 1000*addrLen)...))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(m.(*CallMeMaybe).Addrs); n != MaxAddrs {
		t.Errorf("%d addresses, want %d", n, MaxAddrs)
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, m := range messages(f) {
		f.Add(m.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		again, err := parseMessage(m.append(nil))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	a, shared := sharedAB(f)
	for _, m := range messages(f) {
		f.Add(Append(nil, a.NodeID(), &shared, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if Is(b) {
			_ = Sender(b)
			_, _ = Open(&shared, b)
		}
	})
}

func BenchmarkAppendPing(b *testing.B) {
	a, shared := sharedAB(b)
	ping := &Ping{TxID: testTx, Node: a.NodeID()}
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = Append(buf[:0], a.NodeID(), &shared, ping)
	}
}

func BenchmarkOpenPing(b *testing.B) {
	a, shared := sharedAB(b)
	packet := Append(nil, a.NodeID(), &shared, &Ping{TxID: testTx, Node: a.NodeID()})
	buf := make([]byte, len(packet))
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, packet)
		if _, err := Open(&shared, buf); err != nil {
			b.Fatal(err)
		}
	}
}
