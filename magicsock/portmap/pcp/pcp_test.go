package pcp_test

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/pcp"
)

var (
	nonce = pcp.Nonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	self  = netip.MustParseAddr("192.168.1.20")
)

const mapQuestion = "0201000000000e1000000000000000000000ffffc0a801140102030405060708090a0b0c11000000a2a9000000000000000000000000ffff00000000"

func TestQuestions(t *testing.T) {
	for _, c := range []struct {
		name string
		r    pcp.Request
		want string
	}{
		{"announce", pcp.Request{Op: pcp.OpAnnounce, Client: self}, "020000000000000000000000000000000000ffffc0a80114"},
		{"map", pcp.Request{Op: pcp.OpMap, Client: self, Lifetime: time.Hour, Map: pcp.Map{Nonce: nonce, Internal: 41641}}, mapQuestion},
	} {
		if got := hex.EncodeToString(pcp.AppendRequest(nil, c.r)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAnswers(t *testing.T) {
	granted := pcp.Answer{
		Op: pcp.OpMap, Lifetime: time.Hour, Epoch: 100 * time.Second,
		Map: pcp.Map{Nonce: nonce, Internal: 41641, External: netip.MustParseAddrPort("192.0.2.7:41642")},
	}
	const head = "0281000000000e1000000064000000000000000000000000"
	const body = "0102030405060708090a0b0c11000000a2a9a2aa00000000000000000000ffffc0000207"
	for _, c := range []struct {
		name, b string
		want    pcp.Answer
		err     error
	}{
		{"granted", head + body, granted, nil},
		{"with an option", head + body + "02000004deadbeef", granted, nil},
		{"with half an option", head + body + "0200", granted, nil},
		{"announcement", "028000000000000000000064000000000000000000000000", pcp.Answer{Epoch: 100 * time.Second}, nil},
		{"refused in short", "028100020000003c00000064000000000000000000000000", pcp.Answer{Op: 1, Result: pcp.NotAuthorized, Lifetime: time.Minute, Epoch: 100 * time.Second}, nil},
		{"empty", "", pcp.Answer{}, pcp.ErrShort},
		{"head cut", head[:46], pcp.Answer{}, pcp.ErrShort},
		{"body cut", head + body[:70], pcp.Answer{Op: 1, Lifetime: time.Hour, Epoch: 100 * time.Second}, pcp.ErrShort},
		{"body missing", head, pcp.Answer{Op: 1, Lifetime: time.Hour, Epoch: 100 * time.Second}, pcp.ErrShort},
		{"NAT-PMP", "0081000100000064", pcp.Answer{}, pcp.ErrVersion},
		{"question", mapQuestion, pcp.Answer{}, pcp.ErrOpcode},
		{"PEER", "0282000000000e1000000064000000000000000000000000" + body, pcp.Answer{}, pcp.ErrOpcode},
		{"TCP", head + "0102030405060708090a0b0c06000000a2a9a2aa00000000000000000000ffffc0000207", pcp.Answer{Op: 1, Lifetime: time.Hour, Epoch: 100 * time.Second}, pcp.ErrProtocol},
		{"IPv6", head + "0102030405060708090a0b0c11000000a2a9a2aa20010db8000000000000000000000007", pcp.Answer{
			Op: 1, Lifetime: time.Hour, Epoch: 100 * time.Second,
			Map: pcp.Map{Nonce: nonce, Internal: 41641, External: netip.AddrPortFrom(netip.Addr{}, 41642)},
		}, pcp.ErrProtocol},
	} {
		b, err := hex.DecodeString(c.b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pcp.ParseAnswer(b)
		if !errors.Is(err, c.err) || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestAllocs(t *testing.T) {
	b := make([]byte, 0, 64)
	answer := pcp.AppendAnswer(nil, pcp.Answer{Op: pcp.OpMap, Map: pcp.Map{Internal: 1}})
	if n := testing.AllocsPerRun(100, func() {
		b = pcp.AppendRequest(b[:0], pcp.Request{Op: pcp.OpMap, Client: self, Map: pcp.Map{Nonce: nonce}})
		_, _ = pcp.ParseAnswer(answer)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(pcp.AppendAnswer(nil, pcp.Answer{Op: pcp.OpMap, Lifetime: time.Hour, Map: pcp.Map{Nonce: nonce, Internal: 1, External: netip.MustParseAddrPort("192.0.2.7:2")}}))
	f.Add(pcp.AppendAnswer(nil, pcp.Answer{Epoch: time.Hour}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := pcp.ParseAnswer(b)
		if err != nil {
			return
		}
		if a.Map == (pcp.Map{}) {
			return // a refusal in short
		}
		if again, err := pcp.ParseAnswer(pcp.AppendAnswer(nil, a)); err != nil || again != a {
			t.Errorf("%+v became %+v, %v", a, again, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add(pcp.AppendRequest(nil, pcp.Request{Client: self}))
	f.Add(pcp.AppendRequest(nil, pcp.Request{Op: pcp.OpMap, Client: self, Map: pcp.Map{Nonce: nonce, Internal: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := pcp.ParseRequest(b)
		if err != nil {
			return
		}
		if again, err := pcp.ParseRequest(pcp.AppendRequest(nil, r)); err != nil || again != r {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}
