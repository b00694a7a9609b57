package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func someInvite(t testing.TB) Invite {
	t.Helper()
	relay, err := ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	i := Invite{Addr: NodeAddr{ID: GenerateSecretKey().NodeID(), Relay: relay, Direct: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:41820")}}}
	copy(i.Secret[:], "0123456789abcdef")
	return i
}

func TestInvite(t *testing.T) {
	want := someInvite(t)
	text := FormatInvite(want)
	for _, form := range []string{text, strings.ToUpper(text)} {
		got, err := ParseInvite(form)
		if err != nil || got.Secret != want.Secret || got.Addr.ID != want.Addr.ID || got.Addr.Relay != want.Addr.Relay || len(got.Addr.Direct) != 1 {
			t.Errorf("%v, %v", got, err)
		}
	}
	// S24: it does not get into logs.
	for _, shown := range []string{want.String(), fmt.Sprintf("%v %+v %#v", want, want, want), want.LogValue().String()} {
		if strings.Contains(shown, "0123456789") || strings.Contains(shown, "48, 49") {
			t.Errorf("it says %q", shown)
		}
	}
}

// Any wrong or missing character is noticed.
func TestDamagedInvite(t *testing.T) {
	text := FormatInvite(someInvite(t))
	for i := len(invitePrefix); i < len(text); i++ {
		for _, c := range []byte("a7") {
			if text[i] == c {
				continue
			}
			b := []byte(text)
			b[i] = c
			if got, err := ParseInvite(string(b)); !errors.Is(err, ErrDamagedInvite) {
				t.Fatalf("character %d: %v, %v", i, got, err)
			}
		}
		if _, err := ParseInvite(text[:i]); !errors.Is(err, ErrDamagedInvite) {
			t.Fatalf("the first %d characters: %v", i, err)
		}
	}
	for _, other := range []string{"", "nt1", "node" + text, "nt2" + text[3:], GenerateSecretKey().NodeID().String(), text + "a"} {
		if _, err := ParseInvite(other); !errors.Is(err, ErrBadInvite) && !errors.Is(err, ErrDamagedInvite) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func FuzzParseInvite(f *testing.F) {
	f.Add(FormatInvite(someInvite(f)))
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInvite(s)
		if err != nil {
			return
		}
		again, err := ParseInvite(FormatInvite(i))
		if err != nil || again.Secret != i.Secret || again.Addr.ID != i.Addr.ID {
			t.Errorf("%v became %v, %v", i, again, err)
		}
	})
}
