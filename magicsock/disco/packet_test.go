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

// pingPacket is the whole packet of the known answers, from A to B.
const pingPacket = "5453f09f92ac" + "4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29" +
	"0f6c8601389c45b5a67dad415c20f858" +
	"fc48a312dabcd75a39fbe95b52d26befb867acb00767a9c3cc67e42b2775659ebadfa08ee4e4905d23890e7da912" +
	"000102030405060708090a0b0c0d0e0f1011121314151617"

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenKnownAnswer(t *testing.T) {
	b := unhex(t, pingPacket)
	if !Is(b) {
		t.Fatal("not taken for disco")
	}
	// B opens it, by the key that stands in the packet.
	sender, err := identity.NodeIDFromBytes(b[magicLen:headerLen])
	if err != nil || Sender(b) != sender {
		t.Fatalf("sender %x, %v", Sender(b), err)
	}
	shared, err := NewSharedKey(testKey(t, 2), sender)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(&shared, b)
	if want := (&Ping{TxID: testTx, Node: testKey(t, 1).NodeID()}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

// The plaintexts of the specification, read.
func TestParseKnownAnswers(t *testing.T) {
	const tx = "0102030405060708090a0b0c"
	id := testKey(t, 1).NodeID()
	relay, err := identity.ParseRelayURL("https://relay.example.org./")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, plain string
		want        Message
	}{
		{"ping", "0100" + tx + id.Hex(), &Ping{TxID: testTx, Node: id}},
		{"ping with a tail", "0100" + tx + id.Hex() + "ff00ff", &Ping{TxID: testTx, Node: id, Pad: 3}},
		{"pong, IPv4", "0200" + tx + "00" + "00000000000000000000ffffc0000207" + "a9a2", &Pong{TxID: testTx, Src: netip.MustParseAddrPort("192.0.2.7:41641")}},
		{"pong, IPv6", "0200" + tx + "00" + "20010db8000000000000000000000007" + "bb01", &Pong{TxID: testTx, Src: netip.MustParseAddrPort("[2001:db8::7]:443")}},
		{"pong, relay", "0200" + tx + "01" + hex.EncodeToString([]byte("https://relay.example.org./")), &Pong{TxID: testTx, Relay: relay}},
		{"pong, relay without the dot", "0200" + tx + "01" + hex.EncodeToString([]byte("https://relay.example.org")), &Pong{TxID: testTx, Relay: relay}},
		{"call-me-maybe to nowhere", "0300", &CallMeMaybe{Addrs: []netip.AddrPort{}}},
		{"call-me-maybe", "0300" + "00000000000000000000ffffc0000207" + "a9a2" + "20010db8000000000000000000000007" + "bb01", &CallMeMaybe{Addrs: []netip.AddrPort{
			netip.MustParseAddrPort("192.0.2.7:41641"), netip.MustParseAddrPort("[2001:db8::7]:443"),
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := parseMessage(unhex(t, tc.plain)); err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func TestPacketLengths(t *testing.T) {
	a, shared := sharedAB(t)
	addr := netip.MustParseAddrPort("192.0.2.7:1")
	for _, tc := range []struct {
		name string
		m    Message
		want int
	}{
		{"ping", &Ping{}, 124},
		{"padded ping", &Ping{Pad: 1200 - PingLen}, 1200},
		{"ping with a senseless pad", &Ping{Pad: -5}, 124},
		{"pong by UDP", &Pong{Src: addr}, 111},
		{"empty call-me-maybe", &CallMeMaybe{}, 80},
		{"call-me-maybe of two", &CallMeMaybe{Addrs: []netip.AddrPort{addr, addr}}, 80 + 36},
	} {
		if got := len(Append(nil, a.NodeID(), &shared, tc.m)); got != tc.want {
			t.Errorf("%s: %d bytes, want %d", tc.name, got, tc.want)
		}
	}
}

func TestIs(t *testing.T) {
	whole := unhex(t, pingPacket)
	other := bytes.Clone(whole)
	other[5]++
	for _, tc := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"packet", whole, true},
		{"header alone", whole[:38], true},
		{"one less", whole[:37], false},
		{"nothing", nil, false},
		{"other magic", other, false},
	} {
		if got := Is(tc.b); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// S6: the sender's key is read without arithmetic, so a key that is no point
// comes back as it stands; only who was admitted pays for the curve, and then
// the key is refused.
func TestSenderIsNotChecked(t *testing.T) {
	for name, key := range map[string]string{
		"not a point":    "0200000000000000000000000000000000000000000000000000000000000000",
		"of small order": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		b := unhex(t, pingPacket)
		copy(b[magicLen:], unhex(t, key))
		sender := Sender(b)
		if hex.EncodeToString(sender[:]) != key {
			t.Errorf("%s: sender %x", name, sender)
		}
		if _, err := NewSharedKey(testKey(t, 2), sender); err == nil {
			t.Errorf("%s: makes a key", name)
		}
	}
}

func TestOpenWrongKey(t *testing.T) {
	stranger, err := NewSharedKey(testKey(t, 7), testKey(t, 1).NodeID())
	if err != nil {
		t.Fatal(err)
	}
	if m, err := Open(&stranger, unhex(t, pingPacket)); !errors.Is(err, ErrBox) {
		t.Errorf("%+v, %v, want %v", m, err, ErrBox)
	}
}

// Two packets of one message have nothing in common but the header: the nonce
// is new each time.
func TestFreshNonce(t *testing.T) {
	a, shared := sharedAB(t)
	ping := &Ping{TxID: testTx, Node: a.NodeID()}
	one, two := Append(nil, a.NodeID(), &shared, ping), Append(nil, a.NodeID(), &shared, ping)
	if bytes.Equal(one[headerLen:headerLen+tagLen], two[headerLen:headerLen+tagLen]) || bytes.Equal(one[len(one)-nonceLen:], two[len(two)-nonceLen:]) {
		t.Error("the nonce repeats")
	}
	prefix := []byte("before")
	if got := Append(prefix, a.NodeID(), &shared, ping); !bytes.HasPrefix(got, []byte("before")) || !Is(got[len(prefix):]) {
		t.Errorf("Append to something: %x", got)
	}
}

// The message that Open returns keeps nothing of the buffer, which is reused.
func TestMessageIsACopy(t *testing.T) {
	a, shared := sharedAB(t)
	for name, m := range messages(t) {
		b := Append(nil, a.NodeID(), &shared, m)
		got, err := Open(&shared, b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] = 0xff
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%s became %+v", name, got)
		}
	}
}

func BenchmarkSender(b *testing.B) {
	packet := unhex(b, pingPacket)
	b.ReportAllocs()
	for b.Loop() {
		if !Is(packet) || Sender(packet) == [32]byte{} {
			b.Fatal("not disco")
		}
	}
}

func BenchmarkNewSharedKey(b *testing.B) {
	key, peer := testKey(b, 1), testKey(b, 2).NodeID()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewSharedKey(key, peer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenForgery(b *testing.B) {
	_, shared := sharedAB(b)
	packet := unhex(b, pingPacket)
	packet[60]++
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(&shared, packet); err == nil {
			b.Fatal("opened")
		}
	}
}
