package iroh1

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testKey is the key of all vectors: the seed is 32 bytes of 2a.
func testKey(t testing.TB) *identity.SecretKey {
	t.Helper()
	key, err := identity.SecretKeyFromSeed(bytes.Repeat([]byte{0x2a}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var testChallenge = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const clientAuth = "01197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d6140a28b5ebc6a930b5d80ad5aca2a8e48ad4a064e699c0866674c8b8e61a5f4" +
	"ea940ee8b9f06732930250ac0735555abe77e8df740165edc3163be432f0e4f3cf0f"

// Frames of iroh-relay 1.0.3, see protos/relay.rs and protos/handshake.rs there.
func TestVectors(t *testing.T) {
	key := testKey(t)
	id := key.NodeID()
	hello := []byte("Hello World!")
	for _, test := range []struct {
		name, want string
		got        []byte
	}{
		{"challenge", "00 000102030405060708090a0b0c0d0e0f", AppendChallenge(nil, testChallenge)},
		{"answer", clientAuth, AppendClientAuth(nil, key, testChallenge)},
		{"confirmation", "02", AppendConfirm(nil)},
		{"denial", "030e6e6f7420617574686f72697a6564", AppendDeny(nil, "not authorized")},
		{"another denial", "03117369676e617475726520696e76616c6964", AppendDeny(nil, "signature invalid")},
		{
			"single", "04197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d610348656c6c6f20576f726c6421",
			AppendPacket(nil, true, Packet{Node: id, ECN: 3, Datagrams: hello}),
		},
		{
			"batch", "05197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d6103000648656c6c6f20576f726c6421",
			AppendPacket(nil, true, Packet{Node: id, ECN: 3, Datagrams: hello, Segment: 6}),
		},
		{
			"batch with a short tail", "05197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61000005616161616162626262626363",
			AppendPacket(nil, true, Packet{Node: id, Datagrams: []byte("aaaaabbbbbcc"), Segment: 5}),
		},
		{
			"received", "06197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d610348656c6c6f20576f726c6421",
			AppendPacket(nil, false, Packet{Node: id, ECN: 3, Datagrams: hello}),
		},
		{
			"received batch", "07197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d6103000648656c6c6f20576f726c6421",
			AppendPacket(nil, false, Packet{Node: id, ECN: 3, Datagrams: hello, Segment: 6}),
		},
		{"gone", "08197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61", AppendEndpointGone(nil, id)},
		{"ping", "092a2a2a2a2a2a2a2a", AppendPing(nil, [8]byte(bytes.Repeat([]byte{0x2a}, 8)))},
		{"pong", "0a2a2a2a2a2a2a2a2a", AppendPong(nil, [8]byte(bytes.Repeat([]byte{0x2a}, 8)))},
		{"status", "0d01", AppendStatus(nil, StatusSameID)},
		{"restarting", "0c0000000a00000014", AppendRestarting(nil, 10, 20)},
		{"health", "0b48656c6c6f3f20596573207468697320697320646f672e", AppendHealth(nil, "Hello? Yes this is dog.")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if want := unhex(t, test.want); !bytes.Equal(test.got, want) {
				t.Errorf("got  %x\nwant %x", test.got, want)
			}
			if _, _, err := Parse(test.got); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChallengeLogin(t *testing.T) {
	id := testKey(t).NodeID()
	good := unhex(t, clientAuth)[1:]
	another := testChallenge
	another[0]++
	change := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	for _, test := range []struct {
		name      string
		body      []byte
		challenge [16]byte
		want      error
	}{
		{"good", good, testChallenge, nil},
		{"another challenge", good, another, ErrLogin},
		{"another key", change(0), testChallenge, ErrLogin},
		{"bad signature", change(80), testChallenge, ErrLogin},
		{"another length", change(32), testChallenge, ErrMalformed},
		{"short", good[:96], testChallenge, ErrMalformed},
		{"small order key", append([]byte{1}, append(make([]byte, 31), append([]byte{64}, make([]byte, 64)...)...)...), testChallenge, ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseClientAuth(test.body, test.challenge)
			if test.name == "another key" && err != nil {
				return // not every change makes a point
			}
			if !errors.Is(err, test.want) || err == nil && got != id {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	random := [16]byte(unhex(t, "728ddd34ee778882a81c004d6e8b0e13"))
	want := unhex(t, "a1e5c8980f5d0677be475ff7161eca5d728b0ea9239677bf536e4e514eba2b316bb5536fbfd67e31b5ca580a3937d82aeb5b7a53387d6125eaee784e7d551a0b")
	if got := testKey(t).SignRelay1x(random); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

const authHeader = "GX9rI-FshTLGq8g4-s1ep4m-DHaykgM0A5v6iz02jWFAQb98VXtFUshaBKOJKabtiBrsmgnPjpFdRpJqAzcy9jOAPc-kOvzLgXjeT9vCG8qx2yO7aDoF4n5vbE4kJbh2CBAREhMUFRYXGBkaGxwdHh8"

func TestAuthHeader(t *testing.T) {
	key := testKey(t)
	var keying, other [32]byte
	for i := range keying {
		keying[i] = byte(i)
	}
	other = keying
	other[0]++
	if got := AuthHeaderValue(key, keying); got != authHeader {
		t.Errorf("got  %s\nwant %s", got, authHeader)
	}
	a, err := ParseAuthHeader(authHeader)
	if err != nil || a.Node != key.NodeID() || !a.Verify(keying) || a.Verify(other) {
		t.Errorf("%+v, %v", a, err)
	}
	other[0], other[31] = 0, 0
	if a.Verify(other) {
		t.Error("the header of another connection")
	}
	for _, bad := range []string{"", "not base64!", authHeader[:100], authHeader + "=", strings.Replace(authHeader, "jWFA", "jWFB", 1)} {
		if _, err := ParseAuthHeader(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, hex string
		t         Type
		want      error
	}{
		{"long form of a type", "40092a2a2a2a2a2a2a2a", TypePing, nil},
		{"longest form of a type", "c0000000000000092a2a2a2a2a2a2a2a", TypePing, nil},
		{"empty", "", 0, ErrMalformed},
		{"type cut short", "40", 0, ErrMalformed},
		{"unknown", "0e", 14, ErrUnknownType},
		{"unknown, long", "7fff", 0x3fff, ErrUnknownType},
		{"short ping", "092a", TypePing, ErrMalformed},
		{"long ping", "092a2a2a2a2a2a2a2a2a", TypePing, ErrMalformed},
		{"short packet", "0401", TypeSendDatagram, ErrMalformed},
		{"batch without a size", "05" + strings.Repeat("00", 33), TypeSendBatch, ErrMalformed},
		{"empty datagram", "06" + strings.Repeat("00", 33), TypeRecvDatagram, nil},
		{"longest body", "04" + strings.Repeat("00", 65536), TypeSendDatagram, nil},
		{"too long", "04" + strings.Repeat("00", 65537), TypeSendDatagram, ErrMalformed},
		{"short restart", "0c00", TypeRestarting, ErrMalformed},
		{"status without value", "0d", TypeStatus, ErrMalformed},
		{"status with more", "0d0102", TypeStatus, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := Parse(unhex(t, test.hex))
			if !errors.Is(err, test.want) || got != test.t {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}

func TestPackets(t *testing.T) {
	for _, test := range []struct {
		name string
		p    Packet
		want []string
	}{
		{"single", Packet{Datagrams: []byte("abc")}, []string{"abc"}},
		{"segment of its length", Packet{Datagrams: []byte("abc"), Segment: 3}, []string{"abc"}},
		{"segment beyond it", Packet{Datagrams: []byte("abc"), Segment: 9}, []string{"abc"}},
		{"batch", Packet{Datagrams: []byte("aabbcc"), Segment: 2}, []string{"aa", "bb", "cc"}},
		{"short tail", Packet{Datagrams: []byte("aabbc"), Segment: 2}, []string{"aa", "bb", "c"}},
		{"empty", Packet{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			frame := AppendPacket(nil, true, test.p)
			kind, body, err := Parse(frame)
			if err != nil {
				t.Fatal(err)
			}
			p, err := ParsePacket(kind, body)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for d, ok := p.Next(); ok; d, ok = p.Next() {
				got = append(got, string(d))
			}
			if strings.Join(got, "|") != strings.Join(test.want, "|") {
				t.Errorf("%q", got)
			}
		})
	}
	if frame := AppendPacket(nil, true, Packet{Datagrams: make([]byte, MaxDatagram)}); len(frame) != 65536 {
		t.Errorf("the longest datagram makes a frame of %d bytes", len(frame))
	}
	if frame := AppendPacket(nil, true, Packet{Datagrams: make([]byte, MaxBatch), Segment: 1200}); len(frame) != 65536 {
		t.Errorf("the longest batch makes a frame of %d bytes", len(frame))
	}
	if _, err := ParsePacket(TypeSendBatch, make([]byte, 34)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, clientAuth))
	f.Add(unhex(f, "05197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61000005616161616162626262626363"))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := Parse(b)
		if err != nil {
			return
		}
		switch kind {
		case TypeServerChallenge:
			_, _ = ParseChallenge(body)
		case TypeClientAuth:
			_, _ = ParseClientAuth(body, testChallenge)
		case TypeServerDeniesAuth:
			_, _ = ParseDeny(body)
		case TypeSendDatagram, TypeSendBatch, TypeRecvDatagram, TypeRecvBatch:
			p, err := ParsePacket(kind, body)
			if err != nil {
				t.Fatal(err)
			}
			total, want := 0, len(p.Datagrams)
			for d, ok := p.Next(); ok; d, ok = p.Next() {
				total += len(d)
			}
			if total != want {
				t.Fatalf("%d of %d bytes", total, want)
			}
		}
	})
}

func FuzzParseAuthHeader(f *testing.F) {
	f.Add(authHeader)
	f.Fuzz(func(_ *testing.T, s string) {
		if a, err := ParseAuthHeader(s); err == nil {
			a.Verify([32]byte{})
		}
	})
}

func batchOf(lengths ...int) (batch []byte) {
	for i, n := range lengths {
		batch = relay.AppendDatagram(batch, bytes.Repeat([]byte{byte('a' + i)}, n))
	}
	return batch
}

// Batches of version 3 and packets of 1.x hold the same datagrams.
func TestBridge(t *testing.T) {
	id := testKey(t).NodeID()
	for _, test := range []struct {
		name    string
		lengths []int
		packets int
	}{
		{"one", []int{1200}, 1},
		{"equal", []int{1200, 1200, 1200}, 1},
		{"short tail", []int{1200, 1200, 7}, 1},
		{"growing", []int{7, 1200, 1200}, 2},
		{"two short ones", []int{1200, 7, 7}, 2},
		{"another after a short one", []int{1200, 7, 1200}, 2},
		{"more than one packet holds", []int{30000, 30000, 30000}, 2},
		{"longest", []int{relay.MaxDatagram}, 1},
		{"empty", nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			batch := batchOf(test.lengths...)
			var back []byte
			packets := 0
			_, err := EachPacket(nil, false, id, batch, func(m []byte) error {
				packets++
				if len(m) > 65536 {
					t.Errorf("a message of %d bytes", len(m))
				}
				kind, body, err := Parse(m)
				if err != nil {
					return err
				}
				p, err := ParsePacket(kind, body)
				if err != nil || p.Node != id {
					t.Errorf("%v, %v", p.Node, err)
				}
				for {
					var ok bool
					if back, ok = p.NextBatch(back); !ok {
						return nil
					}
				}
			})
			if err != nil || packets != test.packets || !bytes.Equal(back, batch) {
				t.Errorf("%d packets, %d bytes of %d, %v", packets, len(back), len(batch), err)
			}
		})
	}
}

func TestBridgeBounds(t *testing.T) {
	// Tiny datagrams grow by their lengths: no batch gets too long.
	p := Packet{Datagrams: make([]byte, MaxBatch), Segment: 1}
	datagrams := 0
	for {
		batch, ok := p.NextBatch(nil)
		if !ok {
			break
		}
		if len(batch) > relay.MaxBatch {
			t.Fatalf("a batch of %d bytes", len(batch))
		}
		datagrams += len(batch) / 3
	}
	if datagrams != MaxBatch {
		t.Errorf("%d datagrams of %d", datagrams, MaxBatch)
	}
	// What no receiver's connection would survive is left out: empty datagrams, one
	// byte too many, the end cut short.
	batch := append(batchOf(0, 5, MaxDatagram+1, 6), 200, 0, 'x')
	var got int
	if _, err := EachPacket(nil, true, testKey(t).NodeID(), batch, func([]byte) error { got++; return nil }); err != nil || got != 2 {
		t.Errorf("%d packets, %v", got, err)
	}
	empty := Packet{}
	if _, ok := empty.NextBatch(nil); ok {
		t.Error("an empty packet has a batch")
	}
	broken := errors.New("broken")
	if _, err := EachPacket(nil, true, testKey(t).NodeID(), batchOf(5, 6, 7), func([]byte) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func FuzzBridge(f *testing.F) {
	f.Add(batchOf(5, 5, 3, 9, 0, 1))
	f.Fuzz(func(t *testing.T, batch []byte) {
		_, _ = EachPacket(nil, true, identity.NodeID{}, batch, func(m []byte) error {
			kind, body, err := Parse(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParsePacket(kind, body); err != nil {
				t.Fatal(err)
			}
			return nil
		})
	})
}
