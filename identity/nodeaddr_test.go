package identity

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func mustRelay(t testing.TB, s string) RelayURL {
	t.Helper()
	u, err := ParseRelayURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func addrs(texts ...string) []netip.AddrPort {
	list := make([]netip.AddrPort, 0, len(texts))
	for _, s := range texts {
		list = append(list, netip.MustParseAddrPort(s))
	}
	return list
}

// full is the worked example of iroh-net's bytes.
func full(t testing.TB) NodeAddr {
	t.Helper()
	return NodeAddr{
		ID:     testKey(t, 7).NodeID(),
		Relay:  mustRelay(t, "https://relay.example.org"),
		Direct: addrs("192.0.2.7:41641", "[2001:db8::7]:443"),
	}
}

const fullHex = "3ee2a8a7283cb2fd728943daa127ef09e483071a8b4bc699ba4522f09b14cfde" +
	"011b68747470733a2f2f72656c61792e6578616d706c652e6f72672e2f" +
	"0200c0000207a9c5020120010db8000000000000000000000007bb03"

func TestNodeAddrBytes(t *testing.T) {
	if got := hex.EncodeToString(AppendNodeAddr(nil, full(t))); got != fullHex {
		t.Errorf("AppendNodeAddr = %s\nwant %s", got, fullHex)
	}
	prefix := []byte("before")
	if got := AppendNodeAddr(bytes.Clone(prefix), full(t)); !bytes.HasPrefix(got, prefix) {
		t.Error("what stood in dst is gone")
	}
	got, err := ParseNodeAddr(unhex(t, fullHex))
	if err != nil || !reflect.DeepEqual(got, full(t)) {
		t.Errorf("ParseNodeAddr = %+v, %v", got, err)
	}
	// A URL as iroh keeps it when it came by a ticket: without the final dot.
	id := full(t).ID
	old := append(append(id[:], 1, 15), "http://derp.me/\x00"...)
	if got, err := ParseNodeAddr(old); err != nil || got.Relay != mustRelay(t, "http://derp.me") {
		t.Errorf("without the dot: %+v, %v", got, err)
	}
}

func TestNodeAddrRoundTrip(t *testing.T) {
	id, relay := testKey(t, 1).NodeID(), mustRelay(t, "https://[2001:db8::1]:3340")
	for _, tc := range []struct {
		name      string
		addr      NodeAddr
		want      []netip.AddrPort
		wantEmpty bool
	}{
		{"id alone", NodeAddr{ID: id}, nil, true},
		{"relay alone", NodeAddr{ID: id, Relay: relay}, nil, false},
		{"direct alone", NodeAddr{ID: id, Direct: addrs("1.2.3.4:5")}, addrs("1.2.3.4:5"), false},
		{"ports of one, two, three bytes", NodeAddr{ID: id, Direct: addrs("1.2.3.4:127", "1.2.3.4:128", "1.2.3.4:16384", "1.2.3.4:65535")}, addrs("1.2.3.4:127", "1.2.3.4:128", "1.2.3.4:16384", "1.2.3.4:65535"), false},
		{"order and duplicates", NodeAddr{ID: id, Direct: addrs("[2001:db8::1]:1", "9.9.9.9:1", "[2001:db8::1]:1", "1.1.1.1:2", "1.1.1.1:1")}, addrs("1.1.1.1:1", "1.1.1.1:2", "9.9.9.9:1", "[2001:db8::1]:1"), false},
		{"mapped, zone, none", NodeAddr{ID: id, Direct: append(addrs("[::ffff:1.2.3.4]:5", "1.2.3.4:5", "[fe80::1%eth0]:1"), netip.AddrPort{})}, addrs("1.2.3.4:5", "[fe80::1]:1"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseTicket(FormatTicket(tc.addr))
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != tc.addr.ID || got.Relay != tc.addr.Relay || fmt.Sprint(got.Direct) != fmt.Sprint(tc.want) {
				t.Errorf("%+v, want %v", got, tc.want)
			}
			if got.IsEmpty() != tc.wantEmpty {
				t.Errorf("IsEmpty = %v", got.IsEmpty())
			}
		})
	}
}

// S9: however many addresses a ticket holds, 64 are kept.
func TestNodeAddrBounded(t *testing.T) {
	a := NodeAddr{ID: testKey(t, 1).NodeID()}
	for n := range 1000 {
		a.Direct = append(a.Direct, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 1))
	}
	got, err := ParseNodeAddr(AppendNodeAddr(nil, a))
	if err != nil || len(got.Direct) != maxDirect {
		t.Errorf("%d addresses, %v", len(got.Direct), err)
	}
	claim := binary.AppendUvarint(append(a.ID[:], 0), 1<<40)
	if _, err := ParseNodeAddr(claim); !errors.Is(err, ErrBadNodeAddr) {
		t.Errorf("a claim of 2^40 addresses: %v", err)
	}
}

func TestParseNodeAddrBad(t *testing.T) {
	whole := unhex(t, fullHex)
	for n := range whole {
		if got, err := ParseNodeAddr(whole[:n]); !errors.Is(err, ErrBadNodeAddr) {
			t.Errorf("cut to %d bytes: %+v, %v", n, got, err)
		}
	}
	if got, err := ParseNodeAddr(append(bytes.Clone(whole), "more"...)); err != nil || !reflect.DeepEqual(got, full(t)) {
		t.Errorf("bytes after it: %+v, %v", got, err)
	}
	change := func(at int, b byte) []byte {
		c := bytes.Clone(whole)
		c[at] = b
		return c
	}
	id := full(t).ID
	for name, b := range map[string][]byte{
		"id of small order":    append(make([]byte, 32), whole[32:]...),
		"relay kind 2":         change(32, 2),
		"relay longer":         change(33, 0x7f),
		"relay URL of nothing": append(append(id[:], 1, 0), 0),
		"relay URL of another": append(append(id[:], 1, 6), "ftp://\x00"...),
		"relay length of 2^63": append(append(id[:], 1), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"varint without end":   append(append(id[:], 1), bytes.Repeat([]byte{0x80}, 20)...),
		"address kind 2":       change(62, 2),
		"port beyond 65535":    append(append(id[:], 0, 1, 0, 1, 2, 3, 4), 0x80, 0x80, 4),
	} {
		if got, err := ParseNodeAddr(b); !errors.Is(err, ErrBadNodeAddr) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestParseTicketText(t *testing.T) {
	ticket := FormatTicket(full(t))
	rest := strings.TrimPrefix(ticket, "node")
	for _, tc := range []struct {
		name, in string
		ok       bool
	}{
		{"as written", ticket, true},
		{"upper case after the prefix", "node" + strings.ToUpper(rest), true},
		{"prefix in upper case", "NODE" + rest, false},
		{"no prefix", rest, false},
		{"prefix alone", "node", false},
		{"another kind of ticket", "blob" + rest, false},
		{"unknown variant", "node" + encoding32.EncodeToString(AppendNodeAddr([]byte{1}, full(t))), false},
		{"character outside the alphabet", ticket + "1", false},
		{"padding", ticket + "=", false},
		{"line end", ticket + "\n", false},
		{"space", ticket + " ", false},
		{"Kelvin sign", strings.Replace(ticket, "k", "\u212a", 1), false},
		{"trailing bits set", "nodeacxfr74igmsbvsbnn73wcecg5vt3kbzncqwfrdiampuufwnhkublmaiqnb2hi4b2f4xwizlsoaxg2zjof4aqa7yaaaayacb", false},
		{"cut", ticket[:len(ticket)-8], false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseTicket(tc.in)
			switch {
			case tc.ok && (err != nil || !reflect.DeepEqual(got, full(t))):
				t.Errorf("%+v, %v", got, err)
			case !tc.ok && !errors.Is(err, ErrBadNodeAddr):
				t.Errorf("%+v, %v, want %v", got, err, ErrBadNodeAddr)
			}
		})
	}
}

func FuzzParseNodeAddr(f *testing.F) {
	f.Add(unhex(f, fullHex))
	f.Add(AppendNodeAddr(nil, NodeAddr{ID: testKey(f, 1).NodeID(), Direct: addrs("1.2.3.4:1024")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseNodeAddr(b)
		if err != nil {
			return
		}
		checkSame(t, a)
	})
}

func FuzzParseTicket(f *testing.F) {
	f.Add(FormatTicket(full(f)))
	f.Add(FormatTicket(NodeAddr{ID: testKey(f, 1).NodeID()}))
	f.Add("node")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseTicket(s)
		if err != nil {
			return
		}
		checkSame(t, a)
	})
}

// checkSame: what was read is written and read again without a change.
func checkSame(t *testing.T, a NodeAddr) {
	t.Helper()
	if again, err := ParseTicket(FormatTicket(a)); err != nil || !reflect.DeepEqual(again, a) {
		t.Errorf("%+v became %+v, %v", a, again, err)
	}
	b := AppendNodeAddr(nil, a)
	again, err := ParseNodeAddr(b)
	if err != nil || !bytes.Equal(AppendNodeAddr(nil, again), b) {
		t.Errorf("%x became %+v, %v", b, again, err)
	}
}
