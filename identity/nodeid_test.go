package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"filippo.io/edwards25519"
)

// testKey makes the identity of 31 zero bytes and a last one.
func testKey(t testing.TB, last byte) *SecretKey {
	t.Helper()
	key, err := SecretKeyFromSeed(seed(last))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseNodeID(t *testing.T) {
	a := testKey(t, 1).NodeID()
	text, digits := a.String(), a.Hex()
	for _, tc := range []struct {
		name, in string
		ok       bool
	}{
		{"base32", text, true},
		{"base32, upper case", strings.ToUpper(text), true},
		{"base32, mixed case", strings.ToUpper(text[:9]) + text[9:], true},
		{"hex", digits, true},
		{"hex, upper case", strings.ToUpper(digits), true},
		{"empty", "", false},
		{"one short", text[1:], false},
		{"one long", text + "a", false},
		{"padding", text + "====", false},
		{"trailing bits set", text[:51] + "r", false},
		{"not in the alphabet", "1" + text[1:], false},
		{"line end", text[:51] + "\n", false},
		{"line end inside, length right", text[:25] + "\r\n" + text[27:], false},
		{"Kelvin sign for k", strings.Replace(text, "k", "\u212a", 1)[:52], false},
		{"hex with another digit", "g" + digits[1:], false},
		{"z-base-32", a.Z32(), false},
		{"bytes", string(a[:]), false},
		{"not a point", "02" + strings.Repeat("0", 62), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseNodeID(tc.in)
			switch {
			case tc.ok && (err != nil || got != a):
				t.Errorf("%v, %v", got, err)
			case !tc.ok && !errors.Is(err, ErrBadNodeID):
				t.Errorf("%v, %v, want %v", got, err, ErrBadNodeID)
			case !tc.ok && !got.IsZero():
				t.Errorf("an error and an id: %v", got)
			}
		})
	}
}

// smallOrderPoints are all encodings of the eight torsion points: the canonical
// ones, then those with y ≥ p or with the sign of x = 0 set.
var smallOrderPoints = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

func TestSmallOrderRefused(t *testing.T) {
	for _, point := range smallOrderPoints {
		if id, err := ParseNodeID(point); !errors.Is(err, ErrBadNodeID) {
			t.Errorf("%s: %v, %v", point, id, err)
		}
		if id, err := NodeIDFromBytes(unhex(t, point)); !errors.Is(err, ErrBadNodeID) {
			t.Errorf("%s from bytes: %v, %v", point, id, err)
		}
		if _, err := testKey(t, 1).ECDH(NodeID(unhex(t, point))); err == nil {
			t.Errorf("%s makes a shared secret", point)
		}
	}
}

// The attack that makes small-order keys useless as names: with A the neutral
// element, one signature (R = rB, S = r) fits every message. crypto/ed25519
// lets it pass.
func TestVerifySmallOrderKey(t *testing.T) {
	r := scalar(t, "some number")
	sig := append(new(edwards25519.Point).ScalarBaseMult(r).Bytes(), r.Bytes()...)
	for _, point := range smallOrderPoints {
		id := NodeID(unhex(t, point))
		passed := false
		for n := range 64 {
			msg := fmt.Appendf(nil, "message %d", n)
			passed = passed || ed25519.Verify(id[:], msg, sig)
			if id.Verify(msg, sig) {
				t.Errorf("%s: the signature is taken for %q", point, msg)
			}
		}
		if point == smallOrderPoints[0] && !passed {
			t.Error("the attack is not one: crypto/ed25519 refuses it as well")
		}
	}
}

// A signer may choose R of small order; strict verification refuses that.
func TestVerifySmallOrderR(t *testing.T) {
	key := testKey(t, 1)
	expanded := sha512.Sum512(seed(1))
	a, err := new(edwards25519.Scalar).SetBytesWithClamping(expanded[:32])
	if err != nil {
		t.Fatal(err)
	}
	msg, r := []byte("message"), unhex(t, smallOrderPoints[0])
	id := key.NodeID()
	h := scalar(t, string(r)+string(id[:])+string(msg))
	sig := append(r, new(edwards25519.Scalar).Multiply(h, a).Bytes()...)
	if !ed25519.Verify(id[:], msg, sig) {
		t.Fatal("the attack is not one: crypto/ed25519 refuses it as well")
	}
	if id.Verify(msg, sig) {
		t.Error("a signature with R of small order is taken")
	}
}

func scalar(t *testing.T, text string) *edwards25519.Scalar {
	t.Helper()
	wide := sha512.Sum512([]byte(text))
	s, err := new(edwards25519.Scalar).SetUniformBytes(wide[:])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerify(t *testing.T) {
	key := testKey(t, 1)
	id, msg := key.NodeID(), TLSMessage([]byte("spki"))
	sig := key.SignTLS([]byte("spki"))
	if !id.Verify(msg, sig) {
		t.Fatal("own signature does not verify")
	}
	for n := range sig {
		bad := bytes.Clone(sig)
		bad[n] ^= 1
		if id.Verify(msg, bad) {
			t.Errorf("byte %d of the signature does not matter", n)
		}
	}
	// S + L is the same number, which RFC 8032 refuses.
	order := unhex(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	large, carry := bytes.Clone(sig), 0
	for n := range order {
		carry += int(sig[32+n]) + int(order[n])
		large[32+n] = byte(carry)
		carry >>= 8
	}
	for name, tc := range map[string]struct {
		id       NodeID
		msg, sig []byte
	}{
		"other message": {id, []byte("x"), sig},
		"other node":    {testKey(t, 2).NodeID(), msg, sig},
		"no node":       {NodeID{}, msg, sig},
		"S not reduced": {id, msg, large},
		"short":         {id, msg, sig[:63]},
		"long":          {id, msg, append(bytes.Clone(sig), 0)},
		"none":          {id, msg, nil},
	} {
		if tc.id.Verify(tc.msg, tc.sig) {
			t.Errorf("%s: verifies", name)
		}
	}
}

func TestNodeIDText(t *testing.T) {
	a := testKey(t, 1).NodeID()
	type holder struct {
		ID   NodeID
		None NodeID
	}
	b, err := json.Marshal(holder{ID: a})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"ID":"` + a.String() + `","None":""}`; string(b) != want {
		t.Errorf("JSON = %s, want %s", b, want)
	}
	got := holder{None: a}
	if err := json.Unmarshal(b, &got); err != nil || got != (holder{ID: a}) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`{"ID":"x"}`), &got); !errors.Is(err, ErrBadNodeID) {
		t.Errorf("bad text: %v", err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("met", "peer", a)
	if !strings.Contains(log.String(), "peer=js22x5vnph57lk54\n") {
		t.Errorf("log = %s", &log)
	}
}

func TestCompare(t *testing.T) {
	low, high := NodeID{1}, NodeID{2}
	if low.Compare(high) != -1 || high.Compare(low) != 1 || low.Compare(low) != 0 {
		t.Error("Compare does not order by bytes")
	}
}

func FuzzParseNodeID(f *testing.F) {
	a := testKey(f, 1).NodeID()
	for _, s := range []string{a.String(), a.Hex(), strings.ToUpper(a.String()), smallOrderPoints[8], ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseNodeID(s)
		if err != nil {
			return
		}
		if s = strings.ToLower(s); s != id.String() && s != id.Hex() {
			t.Errorf("%q was taken for %v", s, id)
		}
	})
}

func BenchmarkNodeIDFromBytes(b *testing.B) {
	id := testKey(b, 1).NodeID()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NodeIDFromBytes(id[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	key := testKey(b, 1)
	id, msg, sig := key.NodeID(), TLSMessage([]byte("spki")), key.SignTLS([]byte("spki"))
	b.ReportAllocs()
	for b.Loop() {
		if !id.Verify(msg, sig) {
			b.Fatal("does not verify")
		}
	}
}
