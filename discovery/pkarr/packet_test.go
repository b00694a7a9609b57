package pkarr

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKey is the key of the vectors: a seed of 32 bytes of the same value.
func testKey(t testing.TB, b byte) *identity.SecretKey {
	t.Helper()
	key, err := identity.ParseSecretKey(hex.EncodeToString(bytes.Repeat([]byte{b}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func relayURL(t testing.TB, text string) identity.RelayURL {
	t.Helper()
	u, err := identity.ParseRelayURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

const vectorTime = 1700000000000000

// TestVectors compares packets with those that iroh-net 0.28.1 makes, by the SHA-1 of
// their payloads.
func TestVectors(t *testing.T) {
	key := testKey(t, 0x2a)
	if key.NodeID().Z32() != "df9sse9bp1nuftim3yhxiuk6w6r5hddsskjygpydux7esxjstioo" {
		t.Fatalf("the key of the vectors is %s", key.NodeID().Z32())
	}
	for _, tc := range []struct {
		name   string
		addr   identity.NodeAddr
		length int
		sum    string
	}{
		{"relay", identity.NodeAddr{Relay: relayURL(t, "https://euw1-1.relay.iroh.network./")}, 124, "b0a85f57544dd846e8e7ff9ddf732949e6311b1d"},
		{"addresses", identity.NodeAddr{Direct: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::7]:4434"), netip.MustParseAddrPort("192.0.2.7:4433")}}, 138, "0410bed837ef871344640bb658c0e37071450ea9"},
		{"nothing", identity.NodeAddr{}, 12, "fb44ad8231c9db35627fb8aef74b27faf01af735"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.addr.ID = key.NodeID()
			p, err := sign(key, vectorTime, tc.addr)
			if err != nil {
				t.Fatal(err)
			}
			if sum := fmt.Sprintf("%x", sha1.Sum(p.Payload())); sum != tc.sum || len(p.Message()) != tc.length {
				t.Errorf("SHA-1 %s, %d bytes\n%x", sum, len(p.Message()), p.Payload())
			}
			back, err := Parse(key.NodeID(), p.Payload())
			if err != nil {
				t.Fatal(err)
			}
			if got := back.Addr(); got.Relay != tc.addr.Relay || len(got.Direct) != len(tc.addr.Direct) || got.ID != key.NodeID() {
				t.Errorf("%+v", got)
			}
			if back.Timestamp() != vectorTime || !back.Time().Equal(time.UnixMicro(vectorTime)) {
				t.Errorf("timestamp %d", back.Timestamp())
			}
		})
	}
}

// A packet of another implementation with a record that is not ours.
func TestUserData(t *testing.T) {
	key := testKey(t, 0x2a)
	m := dns.Msg{Compress: true}
	m.Response = true
	for _, text := range []string{"relay=https://relay.example./", "addr=127.0.0.1:1234", "user-data=hello"} {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: name(key.NodeID()), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 30}, Txt: []string{text}})
	}
	payload := signed(t, key, vectorTime, m)
	if sum := fmt.Sprintf("%x", sha1.Sum(payload)); sum != "49b1368accbd8778d2786b3b813b797459a5e3fb" {
		t.Errorf("SHA-1 %s", sum)
	}
	p, err := Parse(key.NodeID(), payload)
	if err != nil {
		t.Fatal(err)
	}
	if a := p.Addr(); a.Relay.String() != "https://relay.example./" || len(a.Direct) != 1 {
		t.Errorf("%+v", a)
	}
}

func signed(t testing.TB, key *identity.SecretKey, timestamp uint64, m dns.Msg) []byte {
	t.Helper()
	message, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	payload := key.SignPkarr(timestamp, message)
	for i := range 8 {
		payload = append(payload, byte(timestamp>>(8*(7-i))))
	}
	return append(payload, message...)
}

func TestParseRefuses(t *testing.T) {
	key, other := testKey(t, 0x2a), testKey(t, 7)
	good, err := sign(key, vectorTime, identity.NodeAddr{ID: key.NodeID(), Relay: relayURL(t, "https://a.example")})
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int) []byte {
		b := bytes.Clone(good.Payload())
		b[at] ^= 1
		return b
	}
	noMessage := append(key.SignPkarr(1, bytes.Repeat([]byte{0xff}, 40)), append([]byte{0, 0, 0, 0, 0, 0, 0, 1}, bytes.Repeat([]byte{0xff}, 40)...)...)
	long := append(key.SignPkarr(0, make([]byte, MaxMessage+1)), make([]byte, 8+MaxMessage+1)...)
	for _, tc := range []struct {
		name    string
		id      identity.NodeID
		payload []byte
		want    error
	}{
		{"nothing", key.NodeID(), nil, ErrBadPacket},
		{"too short", key.NodeID(), good.Payload()[:headLen+dnsHeaderLen-1], ErrBadPacket},
		{"too long", key.NodeID(), long, ErrTooLong},
		{"of another node", other.NodeID(), good.Payload(), ErrBadSignature},
		{"signature changed", key.NodeID(), changed(3), ErrBadSignature},
		{"timestamp changed", key.NodeID(), changed(signatureLen + 7), ErrBadSignature},
		{"message changed", key.NodeID(), changed(len(good.Payload()) - 1), ErrBadSignature},
		{"cut", key.NodeID(), good.Payload()[:len(good.Payload())-1], ErrBadSignature},
		{"no DNS message", key.NodeID(), noMessage, ErrBadPacket},
	} {
		if _, err := Parse(tc.id, tc.payload); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// What stands under another name than the node's own does not count (S27).
func TestAddrOfOwnNameOnly(t *testing.T) {
	key, other := testKey(t, 0x2a), testKey(t, 7)
	m := dns.Msg{}
	m.Response = true
	for i, owner := range []string{name(other.NodeID()), "_iroh.", key.NodeID().Z32() + ".", "x._iroh." + key.NodeID().Z32() + "."} {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{fmt.Sprintf("addr=192.0.2.%d:1", i)}})
	}
	p, err := Parse(key.NodeID(), signed(t, key, 5, m))
	if err != nil {
		t.Fatal(err)
	}
	if a := p.Addr(); !a.IsEmpty() {
		t.Errorf("%+v", a)
	}
}

// As many addresses are said as fit.
func TestSignFits(t *testing.T) {
	key := testKey(t, 0x2a)
	addr := identity.NodeAddr{ID: key.NodeID(), Relay: relayURL(t, "https://"+string(bytes.Repeat([]byte("a"), 60))+".example")}
	for i := range 16 {
		addr.Direct = append(addr.Direct, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, byte(i)}), 65000))
	}
	p, err := sign(key, 1, addr)
	if err != nil {
		t.Fatal(err)
	}
	got := p.Addr()
	if len(p.Message()) > MaxMessage || got.Relay != addr.Relay || len(got.Direct) < 10 {
		t.Errorf("%d bytes, %d addresses", len(p.Message()), len(got.Direct))
	}
}

func TestNewerThan(t *testing.T) {
	key := testKey(t, 0x2a)
	make := func(timestamp uint64, relay string) Packet {
		p, err := sign(key, timestamp, identity.NodeAddr{ID: key.NodeID(), Relay: relayURL(t, relay)})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	old, late, tie := make(1, "https://b.example"), make(2, "https://a.example"), make(1, "https://c.example")
	if !late.NewerThan(old) || old.NewerThan(late) || !tie.NewerThan(old) || old.NewerThan(tie) || old.NewerThan(old) {
		t.Error("wrong order")
	}
}

func TestSigner(t *testing.T) {
	key := testKey(t, 0x2a)
	var kept []uint64
	s := NewSigner(key, 1000, func(timestamp uint64) { kept = append(kept, timestamp) })
	a := identity.NodeAddr{ID: key.NodeID(), Relay: relayURL(t, "https://a.example")}
	b := identity.NodeAddr{ID: key.NodeID(), Relay: relayURL(t, "https://b.example")}
	now := time.UnixMicro(5000)
	var last uint64
	next := func(now time.Time, addr identity.NodeAddr) uint64 {
		t.Helper()
		p, err := s.Sign(now, addr)
		if err != nil {
			t.Fatal(err)
		}
		if p.Timestamp() <= last {
			t.Errorf("%d comes after %d", p.Timestamp(), last)
		}
		last = p.Timestamp()
		return last
	}
	if next(time.UnixMicro(10), a) != 1001 { // the clock went back
		t.Errorf("%d", last)
	}
	if next(now, a) != 5000 || len(kept) != 1 { // it says the same
		t.Errorf("%d, kept %v", last, kept)
	}
	if next(now, b); len(kept) != 2 || kept[1] != last {
		t.Errorf("kept %v", kept)
	}
	if next(now.Add(2*time.Hour), b); len(kept) != 3 {
		t.Errorf("kept %v", kept)
	}
	s.Raise(1 << 62)
	if next(now, b) != 1<<62+1 {
		t.Errorf("%d", last)
	}
	s.Raise(1<<64 - 1) // nothing could come after
	next(now, b)
	if _, err := s.Sign(now, identity.NodeAddr{ID: testKey(t, 7).NodeID()}); !errors.Is(err, ErrWrongNode) {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	key := testKey(f, 0x2a)
	good, err := sign(key, vectorTime, identity.NodeAddr{ID: key.NodeID(), Direct: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:4433")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.Payload()[headLen:])
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) > MaxMessage {
			return
		}
		payload := append(append(key.SignPkarr(9, message), 0, 0, 0, 0, 0, 0, 0, 9), message...)
		p, err := Parse(key.NodeID(), payload) // by a node that signs anything
		if err != nil {
			return
		}
		p.Records()
		if addr := p.Addr(); addr.ID != key.NodeID() || len(addr.Direct) > 16 {
			t.Errorf("%+v", addr)
		}
		_, _ = Parse(key.NodeID(), message)
	})
}
