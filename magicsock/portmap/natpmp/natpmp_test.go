package natpmp_test

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/natpmp"
)

func TestQuestions(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"external address", natpmp.AppendAddressRequest(nil), "0000"},
		{"map", natpmp.AppendMapRequest(nil, natpmp.MapRequest{Internal: 41641, Lifetime: 2 * time.Hour}), "00010000a2a9000000001c20"},
		{"map TCP", natpmp.AppendMapRequest(nil, natpmp.MapRequest{TCP: true, Internal: 80, External: 8080, Lifetime: time.Second}), "0002000000501f9000000001"},
		{"end", natpmp.AppendMapRequest(nil, natpmp.MapRequest{Internal: 41641}), "00010000a2a9000000000000"},
		{"more than fits", natpmp.AppendMapRequest(nil, natpmp.MapRequest{Lifetime: 1 << 62}), "0001000000000000ffffffff"},
		{"less than nothing", natpmp.AppendMapRequest(nil, natpmp.MapRequest{Lifetime: -time.Hour}), "000100000000000000000000"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name, b string
		want    natpmp.Answer
		err     error
	}{
		{"address", "008000000000000ac0000207", natpmp.Answer{Epoch: 10 * time.Second, Addr: netip.MustParseAddr("192.0.2.7")}, nil},
		{"padded", "008000000000000ac00002070000000000", natpmp.Answer{Epoch: 10 * time.Second, Addr: netip.MustParseAddr("192.0.2.7")}, nil},
		{"mapping", "0081000000000064a2a9a2aa00001c20", natpmp.Answer{Op: 1, Epoch: 100 * time.Second, Internal: 41641, External: 41642, Lifetime: 2 * time.Hour}, nil},
		{"longest lifetime", "0081000000000064a2a9a2aaffffffff", natpmp.Answer{Op: 1, Epoch: 100 * time.Second, Internal: 41641, External: 41642, Lifetime: 4294967295 * time.Second}, nil},
		{"refused", "0081000200000064", natpmp.Answer{Op: 1, Result: natpmp.NotAuthorized, Epoch: 100 * time.Second}, nil},
		{"empty", "", natpmp.Answer{}, natpmp.ErrShort},
		{"head cut", "00800000000000", natpmp.Answer{}, natpmp.ErrShort},
		{"address cut", "008000000000000ac00002", natpmp.Answer{Epoch: 10 * time.Second}, natpmp.ErrShort},
		{"mapping cut", "0081000000000064a2a9a2aa00001c", natpmp.Answer{Op: 1, Epoch: 100 * time.Second}, natpmp.ErrShort},
		{"PCP", "028000000000000ac0000207", natpmp.Answer{}, natpmp.ErrVersion},
		{"question", "00010000a2a9000000001c20", natpmp.Answer{}, natpmp.ErrOpcode},
		{"other opcode", "008300000000000ac0000207", natpmp.Answer{Op: 3, Epoch: 10 * time.Second}, natpmp.ErrOpcode},
	} {
		b, err := hex.DecodeString(c.b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := natpmp.ParseAnswer(b)
		if !errors.Is(err, c.err) || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestRequestsOfRouters(t *testing.T) {
	for _, want := range []natpmp.MapRequest{
		{Internal: 1, External: 2, Lifetime: 3 * time.Second},
		{TCP: true, Internal: 65535, External: 65535, Lifetime: time.Hour},
	} {
		_, got, err := natpmp.ParseRequest(natpmp.AppendMapRequest(nil, want))
		if err != nil || got != want {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
	for name, c := range map[string]struct {
		b   []byte
		err error
	}{
		"empty": {nil, natpmp.ErrShort}, "version": {[]byte{2, 0}, natpmp.ErrVersion},
		"opcode": {[]byte{0, 9}, natpmp.ErrOpcode}, "cut": {[]byte{0, 1, 0, 0, 1}, natpmp.ErrShort},
	} {
		if _, _, err := natpmp.ParseRequest(c.b); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAllocs(t *testing.T) {
	b := make([]byte, 0, 64)
	answer := natpmp.AppendAnswer(nil, natpmp.Answer{Op: natpmp.OpMapUDP, Internal: 1, External: 2, Lifetime: time.Hour})
	if n := testing.AllocsPerRun(100, func() {
		b = natpmp.AppendMapRequest(b[:0], natpmp.MapRequest{Internal: 1})
		_, _ = natpmp.ParseAnswer(answer)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(natpmp.AppendAnswer(nil, natpmp.Answer{Addr: netip.MustParseAddr("192.0.2.7")}))
	f.Add(natpmp.AppendAnswer(nil, natpmp.Answer{Op: 1, Internal: 1, External: 2, Lifetime: time.Hour}))
	f.Add([]byte{0, 0x81, 0, 2, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := natpmp.ParseAnswer(b)
		if err != nil {
			return
		}
		if again, err := natpmp.ParseAnswer(natpmp.AppendAnswer(nil, a)); err != nil || again != a {
			t.Errorf("%+v became %+v, %v", a, again, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add(natpmp.AppendAddressRequest(nil))
	f.Add(natpmp.AppendMapRequest(nil, natpmp.MapRequest{Internal: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		op, r, err := natpmp.ParseRequest(b)
		if err != nil || op == natpmp.OpAddress {
			return
		}
		if _, again, err := natpmp.ParseRequest(natpmp.AppendMapRequest(nil, r)); err != nil || again != r {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}
