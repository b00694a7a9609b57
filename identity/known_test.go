package identity

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

// seed makes the seed of 31 zero bytes and a last one.
func seed(last byte) []byte { return append(make([]byte, 31), last) }

func TestKnownAnswers(t *testing.T) {
	a, _ := SecretKeyFromSeed(seed(1))
	b, _ := SecretKeyFromSeed(seed(2))
	c, _ := SecretKeyFromSeed(seed(7))
	ab, err := a.ECDH(b.NodeID())
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.ECDH(a.NodeID())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, got, want string }{
		{"A hex", a.NodeID().Hex(), "4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29"},
		{"A base32", a.NodeID().String(), "js22x5vnph57lk54zl6me2oyltjgkhwuxcc3lbu7eqno34ffxiuq"},
		{"A short", a.NodeID().Short(), "js22x5vnph57lk54"},
		{"A z-base-32", a.NodeID().Z32(), "j144z7ipx879mk7h3m6cr4qamujgk8swznn5mbw9ropq5hffzewo"},
		{"B hex", b.NodeID().Hex(), "7422b9887598068e32c4448a949adb290d0f4e35b9e01b0ee5f1a1e600fe2674"},
		{"C base32", c.NodeID().String(), "h3rkrjzihszp24ujipnkcj7pbhsigby2rnf4ngn2iurpbgyuz7pa"},
		{"C hex", c.NodeID().Hex(), "3ee2a8a7283cb2fd728943daa127ef09e483071a8b4bc699ba4522f09b14cfde"},
		{"X25519 A, B", hex.EncodeToString(ab[:]), "7ec25079311f3363a038dffc26c7938f06545c14eb8214490377056ddc5e913c"},
		{"X25519 B, A", hex.EncodeToString(ba[:]), "7ec25079311f3363a038dffc26c7938f06545c14eb8214490377056ddc5e913c"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s = %s, want %s", tc.name, tc.got, tc.want)
		}
	}
}

func TestRelayLoginKnownAnswer(t *testing.T) {
	s := make([]byte, 32)
	for i := range s {
		s[i] = 0x2a
	}
	key, _ := SecretKeyFromSeed(s)
	const id = "197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61"
	const sig = "88e77b22f292ab37435da8de0bc8cb84e288f4e73b3582a52731e9ff9865465c87e05e8d427df422bb6e85e1c05f6f749837baa4a5c7eba3230d77569910430e"
	if key.NodeID().Hex() != id {
		t.Errorf("id = %s", key.NodeID().Hex())
	}
	if got := hex.EncodeToString(key.SignRelayV3()); got != sig {
		t.Errorf("signature = %s, want %s", got, sig)
	}
	if !key.NodeID().Verify([]byte{3}, key.SignRelayV3()) {
		t.Error("own signature does not verify")
	}
}

func TestTicketKnownAnswers(t *testing.T) {
	c, _ := SecretKeyFromSeed(seed(7))
	relay, err := ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	derp, err := ParseRelayURL("http://derp.me")
	if err != nil {
		t.Fatal(err)
	}
	second, err := ParseNodeID("ae58ff8833241ac82d6ff7611046ed67b5072d142c588d0063e942d9a75502b6")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		addr NodeAddr
		want string
	}{
		{
			"with everything",
			NodeAddr{ID: c.NodeID(), Relay: relay, Direct: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::7]:443"), netip.MustParseAddrPort("192.0.2.7:41641")}},
			"nodeaa7ofkfhfa6lf7lsrfb5vijh54e6jayhdkfuxruzxjcsf4e3cth54ai3nb2hi4dthixs64tfnrqxsltfpbqw24dmmuxg64thfyxqeagaaabapkofaiasaainxaaaaaaaaaaaaaaaaaaapoyd",
		},
		{
			"port of two varint bytes",
			NodeAddr{ID: second, Relay: derp, Direct: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1024")}},
			"nodeacxfr74igmsbvsbnn73wcecg5vt3kbzncqwfrdiampuufwnhkublmaiqnb2hi4b2f4xwizlsoaxg2zjof4aqa7yaaaayaca",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := FormatTicket(tc.addr); got != tc.want {
				t.Errorf("FormatTicket = %s\nwant %s", got, tc.want)
			}
			got, err := ParseTicket(tc.want)
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != tc.addr.ID || got.Relay != tc.addr.Relay || len(got.Direct) != len(tc.addr.Direct) {
				t.Errorf("ParseTicket = %+v, want %+v", got, tc.addr)
			}
		})
	}
}
