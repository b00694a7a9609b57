package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors of RFC 9000 A.1.
func TestVarint(t *testing.T) {
	for _, tc := range []struct {
		bytes string
		v     uint64
	}{
		{"c2197c5eff14e88c", 151288809941952652},
		{"9d7f3e7d", 494878333},
		{"7bbd", 15293},
		{"25", 37},
	} {
		if got := hex.EncodeToString(AppendVarint(nil, tc.v)); got != tc.bytes {
			t.Errorf("AppendVarint(%d) = %s, want %s", tc.v, got, tc.bytes)
		}
		got, err := readVarint(bytes.NewReader(fromHex(t, tc.bytes+"ff")))
		if err != nil || got != tc.v {
			t.Errorf("readVarint(%s) = %d, %v", tc.bytes, got, err)
		}
	}
	if v, err := readVarint(bytes.NewReader(fromHex(t, "4025"))); err != nil || v != 37 {
		t.Errorf("a longer form than needed: %d, %v", v, err)
	}
	if _, err := readVarint(bytes.NewReader(fromHex(t, "40"))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
}

func TestFlowHeader(t *testing.T) {
	for _, tc := range []struct {
		name  string
		h     FlowHeader
		bytes string
	}{
		{"IPv6, implied", FlowHeader{SrcPort: 0x1234, DstPort: 22}, "10 00 1234 0016"},
		{"IPv4, implied", FlowHeader{V4: true, SrcPort: 1, DstPort: 2}, "10 01 0001 0002"},
		{"IPv4, explicit source", FlowHeader{V4: true, Src: netip.MustParseAddr("10.0.0.1"), SrcPort: 1, DstPort: 2}, "10 03 0a000001 0001 0002"},
		{"IPv6, explicit destination", FlowHeader{Dst: netip.MustParseAddr("2001:db8::1"), SrcPort: 1, DstPort: 2}, "10 04 0001 20010db8000000000000000000000001 0002"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := AppendFlowHeader(nil, tc.h)
			if want := fromHex(t, tc.bytes); !bytes.Equal(b, want) {
				t.Errorf("%x, want %x", b, want)
			}
			r := bytes.NewReader(append(b, "after"...))
			if kind, err := ReadKind(r); err != nil || kind != StreamFlow {
				t.Fatalf("kind %#x, %v", kind, err)
			}
			got, err := ReadFlowHeader(r)
			if err != nil || got != tc.h {
				t.Errorf("%+v, %v", got, err)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "after" {
				t.Errorf("left over: %q", rest)
			}
		})
	}
	if _, err := ReadFlowHeader(bytes.NewReader(fromHex(t, "08 0001 0002"))); !errors.Is(err, ErrProtocol) {
		t.Errorf("an unknown flag: %v", err)
	}
	if _, err := ReadFlowHeader(bytes.NewReader(fromHex(t, "00 0001"))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
}

func TestAnswer(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, tc := range []struct{ in, want Answer }{
		{Answer{Status: StatusOK}, Answer{Status: StatusOK}},
		{Answer{StatusDenied, "no"}, Answer{StatusDenied, "no"}},
		{Answer{StatusOther, long}, Answer{StatusOther, long[:256]}},
	} {
		r := bytes.NewReader(append(AppendAnswer(nil, tc.in), 'x'))
		got, err := ReadAnswer(r)
		if err != nil || got != tc.want || r.Len() != 1 {
			t.Errorf("%+v, %v, %d left; want %+v", got, err, r.Len(), tc.want)
		}
	}
	if _, err := ReadAnswer(bytes.NewReader(append([]byte{1}, AppendVarint(nil, 257)...))); !errors.Is(err, ErrProtocol) {
		t.Errorf("a long reason: %v", err)
	}
}

func TestMessage(t *testing.T) {
	hello := Hello{Version: "v1", Instance: "00112233445566778899aabbccddeeff", Features: []string{"split/1"}, Name: "laptop", MTU: 1420}
	b, err := AppendMessage(nil, TypeHello, hello)
	if err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(append(b, 'x'))
	kind, body, err := ReadMessage(r, MaxMessage)
	if err != nil || kind != TypeHello || r.Len() != 1 {
		t.Fatalf("type %d, %v, %d left", kind, err, r.Len())
	}
	if want := `{"version":"v1","instance":"00112233445566778899aabbccddeeff","features":["split/1"],"name":"laptop","mtu":1420}`; string(body) != want {
		t.Errorf("body = %s\nwant %s", body, want)
	}
	if _, _, err := ReadMessage(bytes.NewReader(nil), MaxMessage); !errors.Is(err, io.EOF) {
		t.Errorf("end of stream: %v", err)
	}
	for name, bad := range map[string][]byte{
		"too long":  AppendVarint([]byte{1}, MaxMessage+1),
		"no object": append(AppendVarint([]byte{1}, 2), "[]"...),
		"no JSON":   append(AppendVarint([]byte{1}, 2), "{x"...),
		"empty":     AppendVarint([]byte{1}, 0),
	} {
		if _, _, err := ReadMessage(bytes.NewReader(bad), MaxMessage); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := ReadMessage(bytes.NewReader(b), 10); !errors.Is(err, ErrProtocol) {
		t.Errorf("above the reader's limit: %v", err)
	}
}

// alice and bob see each other under IPv4 addresses of their own.
var (
	alice = Ends{
		Local6: netip.MustParseAddr("fd6e:6f64:6574::a"), Remote6: netip.MustParseAddr("fd6e:6f64:6574::b"),
		Local4: netip.MustParseAddr("100.100.0.1"), Remote4: netip.MustParseAddr("100.100.0.2"),
	}
	bob = Ends{
		Local6: alice.Remote6, Remote6: alice.Local6,
		Local4: netip.MustParseAddr("198.18.0.9"), Remote4: netip.MustParseAddr("198.18.0.7"),
	}
)

func packet6(t testing.TB) []byte {
	t.Helper()
	return fromHex(t, "60b12345000a1140"+"fd6e6f6465740000000000000000000a"+"fd6e6f6465740000000000000000000b"+"00050035000a"+"abcd"+"6869")
}

func TestPacket6(t *testing.T) {
	ip := packet6(t)
	b, err := AppendPacket(nil, ip, &alice)
	if err != nil {
		t.Fatal(err)
	}
	if want := fromHex(t, "00 0b 40 11 00050035000aabcd6869"); !bytes.Equal(b, want) {
		t.Errorf("%x, want %x", b, want)
	}
	got, err := DecodePacket(nil, b, &bob)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(ip)
	want[1], want[2], want[3] = 0xb0, 0, 0 // the flow label is not carried
	if !bytes.Equal(got, want) {
		t.Errorf("%x\nwant %x", got, want)
	}
}

// An address that is not one of the two ends makes the datagram whole.
func TestPacketWhole(t *testing.T) {
	ip := packet6(t)
	ip[23] = 0x77
	b, err := AppendPacket(nil, ip, &alice)
	if err != nil || b[0] != KindWhole || !bytes.Equal(b[1:], ip) {
		t.Fatalf("%x, %v", b, err)
	}
	got, err := DecodePacket(nil, b, &bob)
	if err != nil || !bytes.Equal(got, ip) {
		t.Errorf("%x, %v", got, err)
	}
}

func TestJoiner(t *testing.T) {
	whole := append([]byte{KindIPv6}, bytes.Repeat([]byte("x"), 1500)...)
	first, second, err := Split(whole, 7, 1163)
	if err != nil || len(first) != 5+751 || len(second) != 5+750 {
		t.Fatalf("%d and %d bytes, %v", len(first), len(second), err)
	}
	now := time.Unix(1, 0)
	for name, order := range map[string][2][]byte{"in order": {first, second}, "backwards": {second, first}} {
		var j Joiner
		if got, err := j.Add(now, order[0]); got != nil || err != nil {
			t.Fatalf("%s: %x, %v", name, got, err)
		}
		got, err := j.Add(now.Add(2*time.Second), order[1])
		if err != nil || !bytes.Equal(got, whole) || len(j.pending) != 0 || j.bytes != 0 {
			t.Errorf("%s: %d bytes, %v, %d pending", name, len(got), err, len(j.pending))
		}
	}
	for name, bad := range map[string][]byte{
		"too large": whole, "a ping": AppendPing(nil, KindPing, 1, 2), "a half": first, "one byte": {0}, "nothing": nil,
	} {
		if _, _, err := Split(bad, 7, 700); err == nil {
			t.Errorf("%s is split", name)
		}
	}
	if _, _, err := Split(make([]byte, 1<<16), 7, 1<<16); err == nil {
		t.Error("a length of 17 bits")
	}
}

func TestJoinerRefuses(t *testing.T) {
	now := time.Unix(1, 0)
	half := func(kind byte, id, total byte, part string) []byte {
		return append([]byte{kind, 0, id, 0, total}, part...)
	}
	for _, tc := range []struct {
		name string
		a, b []byte
		at   time.Duration
		err  error
	}{
		{"twice the same", half(8, 1, 4, "\x00a"), half(8, 1, 4, "\x00a"), 0, ErrDatagram},
		{"another total", half(8, 1, 4, "\x00a"), half(9, 1, 5, "abc"), 0, ErrDatagram},
		{"overlap", half(8, 1, 4, "\x00ab"), half(9, 1, 4, "ab"), 0, ErrDatagram},
		{"gap", half(8, 1, 6, "\x00ab"), half(9, 1, 6, "ab"), 0, ErrDatagram},
		{"too late", half(8, 1, 4, "\x00a"), half(9, 1, 4, "ab"), 2*time.Second + 1, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var j Joiner
			if _, err := j.Add(now, tc.a); err != nil {
				t.Fatal(err)
			}
			got, err := j.Add(now.Add(tc.at), tc.b)
			if got != nil || !errors.Is(err, tc.err) {
				t.Errorf("%x, %v, want %v", got, err, tc.err)
			}
		})
	}
	var j Joiner
	for name, bad := range map[string][]byte{
		"longer than the whole":     half(8, 1, 1, "ab"),
		"nothing left to come":      half(8, 1, 2, "\x00b"),
		"empty":                     half(8, 1, 2, ""),
		"a half in halves":          half(8, 1, 4, "\x08a"),
		"a ping in halves":          half(8, 1, 17, "\x20a"),
		"of another kind":           half(7, 1, 4, "\x00a"),
		"no header":                 {8, 0},
		"longer than all, second":   half(9, 1, 1, "ab"),
		"nothing left, second half": half(9, 1, 2, "ab"),
	} {
		if got, err := j.Add(now, bad); got != nil || !errors.Is(err, ErrDatagram) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if len(j.pending) != 0 || j.bytes != 0 {
		t.Errorf("%d pending, %d bytes", len(j.pending), j.bytes)
	}
}

func TestJoinerBounded(t *testing.T) {
	now := time.Unix(1, 0)
	var j Joiner
	for id := range 10_000 {
		b := append([]byte{KindFirstHalf, byte(id >> 8), byte(id), 0xff, 0xff}, make([]byte, 60_000)...)
		if _, err := j.Add(now, b); err != nil {
			t.Fatal(err)
		}
		if len(j.pending) > maxPending || j.bytes > maxPendingBytes {
			t.Fatalf("%d pending, %d bytes", len(j.pending), j.bytes)
		}
	}
	if len(j.pending) == 0 {
		t.Error("nothing is kept")
	}
	for id := range 1000 {
		j.Add(now, []byte{KindFirstHalf, byte(id >> 8), byte(id), 0, 9, 1})
	}
	if len(j.pending) > maxPending {
		t.Errorf("%d pending", len(j.pending))
	}
}

func TestPing(t *testing.T) {
	b := AppendPing(nil, KindPong, 1, 2)
	if want := "2100000000000000010000000000000002"; hex.EncodeToString(b) != want {
		t.Errorf("%x, want %s", b, want)
	}
	if kind, nonce, clock, err := ParsePing(b); err != nil || kind != KindPong || nonce != 1 || clock != 2 {
		t.Errorf("%#x, %d, %d, %v", kind, nonce, clock, err)
	}
	for _, bad := range [][]byte{nil, b[:16], append([]byte{0x22}, b[1:]...)} {
		if _, _, _, err := ParsePing(bad); err == nil {
			t.Errorf("%x passes", bad)
		}
	}
}

// Each struct and its JSON, byte for byte what goes over the wire.
func TestMessages(t *testing.T) {
	for _, tc := range []struct {
		v    any
		text string
	}{
		{
			Facts{NAT: NAT{Mapping: "endpoint-independent", V4: true, UDP: true}, Candidates: []Candidate{{Addr: "192.0.2.1:1", RTT: 1.5}}, Relay: "https://r./"},
			`{"nat":{"mapping":"endpoint-independent","v4":true,"v6":false,"udp":true},"candidates":[{"addr":"192.0.2.1:1","rtt_ms":1.5}],"relay":"https://r./"}`,
		},
		{Rules{Rules: []string{"tcp/22"}}, `{"rules":["tcp/22"]}`},
		{Join{Secret: []byte("0123456789abcdef"), Name: "nas"}, `{"secret":"MDEyMzQ1Njc4OWFiY2RlZg==","name":"nas"}`},
		{Joined{OK: true}, `{"ok":true}`},
		{Joined{Reason: "expired"}, `{"ok":false,"reason":"expired"}`},
		{Goodbye{Reason: "sleep"}, `{"reason":"sleep"}`},
		{Ping{Nonce: 7}, `{"nonce":7}`},
	} {
		b, err := AppendMessage(nil, TypeFacts, tc.v)
		if err != nil {
			t.Fatal(err)
		}
		if _, body, err := ReadMessage(bytes.NewReader(b), MaxMessage); err != nil || string(body) != tc.text {
			t.Errorf("%T: %s, %v\nwant %s", tc.v, body, err, tc.text)
		}
	}
	for name, bad := range map[string]any{"a list": []int{1}, "nothing": nil, "a function": func() {}, "too long": Goodbye{Reason: strings.Repeat("x", MaxMessage)}} {
		if b, err := AppendMessage([]byte("x"), TypeFacts, bad); err == nil || string(b) != "x" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := AppendMessage(nil, 1<<62, Ping{}); err == nil {
		t.Error("a type of 63 bits")
	}
}

// S24: the secret of an invite does not get into logs.
func TestJoinHidesSecret(t *testing.T) {
	var log bytes.Buffer
	j := Join{Secret: []byte("0123456789abcdef")}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "join", j)
	fmt.Fprintf(&log, "%v %+v %#v %s", j, j, j, j)
	if strings.Contains(log.String(), "0123") || strings.Contains(log.String(), "MDEy") || strings.Contains(log.String(), "0x30") || strings.Contains(log.String(), "48 49") {
		t.Error(log.String())
	}
}

func TestTexts(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{StatusRefused.String(), "connection refused"},
		{Status(77).String(), "failed"},
		{string(AppendAnswer(nil, Answer{Reason: strings.Repeat("x", 255) + "é"})[3:]), strings.Repeat("x", 255)},
	} {
		if tc.got != tc.want {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}

func FuzzReaders(f *testing.F) {
	f.Add(AppendFlowHeader(nil, FlowHeader{V4: true, SrcPort: 1, DstPort: 2}))
	f.Add(AppendAnswer(nil, Answer{StatusRefused, "no"}))
	message, _ := AppendMessage(nil, TypePing, Ping{Nonce: 1})
	f.Add(message)
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ReadFlowHeader(bytes.NewReader(b)); err == nil {
			again, err := ReadFlowHeader(bytes.NewReader(AppendFlowHeader(nil, h)[1:]))
			if err != nil || again != h {
				t.Errorf("%+v became %+v, %v", h, again, err)
			}
		}
		if a, err := ReadAnswer(bytes.NewReader(b)); err == nil {
			again, err := ReadAnswer(bytes.NewReader(AppendAnswer(nil, a)))
			if err != nil || again != a {
				t.Errorf("%+v became %+v, %v", a, again, err)
			}
		}
		if kind, body, err := ReadMessage(bytes.NewReader(b), MaxMessage); err == nil {
			whole, err := AppendMessage(nil, kind, body)
			if err != nil {
				return // JSON grows when it is made safe for HTML
			}
			again, _, err := ReadMessage(bytes.NewReader(whole), MaxMessage)
			if err != nil || again != kind {
				t.Errorf("type %d became %d, %v", kind, again, err)
			}
		}
	})
}
