package relay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/nodetun/nodetun/identity"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectorKey is the key of iroh-net 0.28.1's own frame snapshots.
func vectorKey(t testing.TB) *identity.SecretKey {
	t.Helper()
	key, err := identity.SecretKeyFromSeed(bytes.Repeat([]byte{0x2a}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const vectorID = "197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61"

// vectors are frames as iroh-net 0.28.1 writes them.
var vectors = []struct {
	name string
	hex  string
	make func(key *identity.SecretKey) []byte
}{
	{
		"client info", "020000006a52454c4159f09f9491" + vectorID +
			"88e77b22f292ab37435da8de0bc8cb84e288f4e73b3582a52731e9ff9865465c87e05e8d427df422bb6e85e1c05f6f749837baa4a5c7eba3230d77569910430e03",
		func(key *identity.SecretKey) []byte { return AppendClientInfo(nil, key) },
	},
	{
		"send packet", "040000002f" + vectorID + "050048656c6c6f0600576f726c6421",
		func(key *identity.SecretKey) []byte {
			batch := AppendDatagram(AppendDatagram(nil, []byte("Hello")), []byte("World!"))
			return AppendPacket(nil, TypeSendPacket, key.NodeID(), batch)
		},
	},
	{
		"recv packet", "050000002f" + vectorID + "050048656c6c6f0600576f726c6421",
		func(key *identity.SecretKey) []byte {
			return AppendPacket(nil, TypeRecvPacket, key.NodeID(), []byte("\x05\x00Hello\x06\x00World!"))
		},
	},
	{"keep alive", "0600000000", func(*identity.SecretKey) []byte { return AppendKeepAlive(nil) }},
	{"note preferred", "070000000101", func(*identity.SecretKey) []byte { return AppendNotePreferred(nil, true) }},
	{"note not preferred", "070000000100", func(*identity.SecretKey) []byte { return AppendNotePreferred(nil, false) }},
	{"peer gone", "0800000020" + vectorID, func(key *identity.SecretKey) []byte { return AppendPeerGone(nil, key.NodeID()) }},
	{"ping", "0c000000082a2a2a2a2a2a2a2a", func(*identity.SecretKey) []byte { return AppendPing(nil, [8]byte(bytes.Repeat([]byte{0x2a}, 8))) }},
	{"pong", "0d000000082a2a2a2a2a2a2a2a", func(*identity.SecretKey) []byte { return AppendPong(nil, [8]byte(bytes.Repeat([]byte{0x2a}, 8))) }},
	{"health", "0e000000116e6f742061757468656e74696361746564", func(*identity.SecretKey) []byte { return AppendHealth(nil, "not authenticated") }},
	{"restarting", "0f000000080000000a00000014", func(*identity.SecretKey) []byte {
		return AppendFrame(nil, TypeRestarting, []byte{0, 0, 0, 10, 0, 0, 0, 20})
	}},
}

func TestVectors(t *testing.T) {
	key := vectorKey(t)
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			want := unhex(t, v.hex)
			got := v.make(key)
			if !bytes.Equal(got, want) {
				t.Fatalf("got  %x\nwant %x", got, want)
			}
			typ, body, err := NewReader(bytes.NewReader(want), nil).Next()
			if err != nil || typ != Type(want[0]) || !bytes.Equal(body, want[HeaderLen:]) {
				t.Fatalf("read %v %x, %v", typ, body, err)
			}
			message := Message(bytes.Clone(want))
			typ, body, err = ParseMessage(message)
			if err != nil || typ != Type(want[0]) || !bytes.Equal(body, want[HeaderLen:]) {
				t.Fatalf("message %v %x, %v", typ, body, err)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	key := vectorKey(t)
	good := AppendClientInfo(nil, key)[HeaderLen:]
	change := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	for _, test := range []struct {
		name string
		body []byte
		want error
	}{
		{"good", good, nil},
		{"bad magic", change(0), ErrLogin},
		{"another key", change(10), ErrLogin},
		{"bad signature", change(60), ErrLogin},
		{"message not signed", append(bytes.Clone(good[:len(good)-1]), 2), ErrLogin},
		{"no message", good[:len(good)-1], ErrLogin},
		{"empty", nil, ErrLogin},
		// S3's sibling: with the identity point as key a signature fits any message.
		{"small order key", append(append([]byte(loginMagic), append([]byte{1}, make([]byte, 95)...)...), 3), ErrLogin},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, _, err := ParseClientInfo(test.body, nil)
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err == nil && id != key.NodeID() {
				t.Fatalf("got %v", id)
			}
		})
	}
}

func TestBadFrames(t *testing.T) {
	for _, test := range []struct {
		name, hex string
		want      error
	}{
		{"type 9", "0900000000", ErrUnknownType},
		{"type 0", "0000000000", ErrUnknownType},
		{"type 16", "1000000000", ErrUnknownType},
		{"ping of 7", "0c0000000701020304050607", ErrBodyLength},
		{"keep alive of 1", "060000000100", ErrBodyLength},
		{"packet without key", "040000001f", ErrBodyLength},
		{"payload of 65537", "0400010021", ErrBodyLength},
		{"login too long", "0200001000", ErrBodyLength},
		{"body of 4 GiB", "0effffffff", ErrBodyLength},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := NewReader(bytes.NewReader(unhex(t, test.hex)), nil).Next()
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
	if _, _, err := ParseMessage(nil); !errors.Is(err, ErrBodyLength) {
		t.Errorf("empty message: %v", err)
	}
}

// A payload of 65 536 bytes is legal, though nobody sends more than 65 504.
func TestLongestPayload(t *testing.T) {
	frame := AppendPacket(nil, TypeSendPacket, identity.NodeID{1}, make([]byte, MaxPayload))
	if len(frame) != MaxFrame {
		t.Fatalf("frame of %d bytes", len(frame))
	}
	_, body, err := NewReader(bytes.NewReader(frame), nil).Next()
	if err != nil || len(body) != KeyLen+MaxPayload {
		t.Fatalf("%d bytes, %v", len(body), err)
	}
}

func TestBatch(t *testing.T) {
	var batch []byte
	want := []string{"Hello", "", "World!"}
	for _, d := range want {
		batch = AppendDatagram(batch, []byte(d))
	}
	check := func(batch []byte, end error) {
		t.Helper()
		for i := 0; ; i++ {
			if len(batch) == 0 && end == nil && i == len(want) {
				return
			}
			d, rest, err := NextDatagram(batch)
			if err != nil {
				if !errors.Is(err, end) || i != len(want) {
					t.Fatalf("datagram %d: %v", i, err)
				}
				return
			}
			if string(d) != want[i] {
				t.Fatalf("datagram %d: %q", i, d)
			}
			batch = rest
		}
	}
	check(batch, nil)
	// What precedes a truncated part is still good.
	check(append(bytes.Clone(batch), 9), ErrBatch)
	check(append(bytes.Clone(batch), 2, 0, 'x'), ErrBatch)
}

func TestIsDisco(t *testing.T) {
	disco := AppendDatagram(nil, []byte(discoMagic+"and the rest"))
	if !IsDisco(disco) || IsDisco(disco[2:]) || IsDisco(disco[:7]) || IsDisco(nil) {
		t.Error("disco is not told apart")
	}
}

// Every frame that is read can be written again, in both forms.
func FuzzReader(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), nil)
		var again []byte
		for {
			typ, body, err := r.Next()
			if err != nil {
				break
			}
			again = AppendFrame(again, typ, body)
			parseBody(typ, body)
			message := append([]byte{byte(typ)}, body...)
			if typ2, body2, err := ParseMessage(message); err != nil || typ2 != typ || !bytes.Equal(body, body2) {
				t.Fatalf("message form differs: %v %v", typ2, err)
			}
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

// parseBody runs the parser of a body, which must not panic.
func parseBody(t Type, body []byte) {
	switch t {
	case TypeClientInfo:
		_, _, _ = ParseClientInfo(body, nil)
		_, _, _ = ParseClientInfo(body, &Challenge{Host: "relay.example:443"})
	case TypeSendPacket, TypeRecvPacket:
		_, payload, _ := ParsePacket(body)
		for len(payload) > 0 {
			var err error
			if _, payload, err = NextDatagram(payload); err != nil {
				break
			}
		}
	case TypeNotePreferred:
		_, _ = ParseNotePreferred(body)
	case TypePeerGone:
		_, _ = ParsePeerGone(body)
	case TypePing, TypePong:
		_, _ = ParsePing(body)
	}
}

func FuzzBatch(f *testing.F) {
	f.Add([]byte("\x05\x00Hello\x06\x00World!"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		for rest := b; len(rest) > 0; {
			d, next, err := NextDatagram(rest)
			if err != nil {
				break
			}
			again, rest = AppendDatagram(again, d), next
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}
