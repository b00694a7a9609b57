package identity

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/curve25519"
)

// The X25519 halves of the known answers, reached from both sides: from the
// seed, as the node itself does, and from the NodeID, as its peers do.
func TestX25519KnownAnswers(t *testing.T) {
	for _, tc := range []struct {
		name string
		last byte
		want string
	}{
		{"A", 1, "d92f5eeaa24fd4e66221c770f704a5e2639a476bab82cfec40bd2874abeb481f"},
		{"B", 2, "86eb31bfa661a77d1a8f714ccb2da9d33bcebb7105bf38a2a9112c4f5b7c1525"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key := testKey(t, tc.last)
			own, err := curve25519.X25519(key.scalar[:], curve25519.Basepoint)
			if err != nil {
				t.Fatal(err)
			}
			id := key.NodeID()
			point, err := new(edwards25519.Point).SetBytes(id[:])
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(own); got != tc.want {
				t.Errorf("from the seed: %s", got)
			}
			if got := hex.EncodeToString(point.BytesMontgomery()); got != tc.want {
				t.Errorf("from the NodeID: %s", got)
			}
		})
	}
}

func TestECDHNotAPoint(t *testing.T) {
	var bad NodeID
	for n := range 256 { // about half of all encodings are no points
		bad[0] = byte(n)
		if _, err := new(edwards25519.Point).SetBytes(bad[:]); err == nil {
			continue
		}
		if _, err := testKey(t, 1).ECDH(bad); !errors.Is(err, ErrBadNodeID) {
			t.Fatalf("%v: %v", bad, err)
		}
	}
}

// S1: the identity key signs through functions with a fixed purpose only, and
// does not leave its type. A new method has to be thought about here.
func TestNoSigningOracle(t *testing.T) {
	known := []string{"ECDH", "Format", "LogValue", "NodeID", "PortmapSecret", "ResetKey", "SignLogin", "SignPkarr", "SignRelay1x", "SignRelay1xTLS", "SignRelayV3", "SignTLS", "String"}
	kind := reflect.TypeFor[*SecretKey]()
	var got []string
	for n := range kind.NumMethod() {
		got = append(got, kind.Method(n).Name)
	}
	if !slices.Equal(got, known) {
		t.Errorf("methods of SecretKey are %v, want %v", got, known)
	}
	for n := range kind.Elem().NumField() {
		if field := kind.Elem().Field(n); field.IsExported() {
			t.Errorf("field %s is exported", field.Name)
		}
	}
}

// S1: no SubjectPublicKeyInfo makes a TLS signature that is a relay login.
func TestSignaturesApart(t *testing.T) {
	key := testKey(t, 1)
	id := key.NodeID()
	for _, spki := range [][]byte{nil, {3}, []byte(tlsPrefix), relayV3Message} {
		if id.Verify(relayV3Message, key.SignTLS(spki)) {
			t.Errorf("the TLS signature of %x is a relay login", spki)
		}
	}
	login, err := key.SignLogin("relay.example:443", [32]byte{3})
	if err != nil || id.Verify(relayV3Message, login) {
		t.Errorf("an answer to a challenge is a constant login, %v", err)
	}
	if id.Verify(relayV3Message, key.SignPkarr(3, nil)) || !bytes.Equal(PkarrMessage(30, []byte{1, 2}), []byte("3:seqi30e1:v2:\x01\x02")) {
		t.Error("the message of a pkarr packet is wrong")
	}
	message, err := LoginMessage("r:1", [32]byte{0: 9, 31: 8}, id)
	want := append(append([]byte("nodetun relay login 1\x00\x03r:1\x09"), make([]byte, 30)...), 8)
	if want = append(want, id[:]...); err != nil || !bytes.Equal(message, want) {
		t.Errorf("the message of a login is %x, %v", message, err)
	}
	if !bytes.Equal(TLSMessage([]byte{1, 2}), []byte("libp2p-tls-handshake:\x01\x02")) {
		t.Error("the TLS prefix is wrong")
	}
}

// A key shows itself nowhere, even when it was copied or lies inside a value.
func TestSecretKeyHidden(t *testing.T) {
	key := testKey(t, 1)
	type holder struct {
		Key   *SecretKey
		Value SecretKey
	}
	inside := holder{key, *key}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U"} {
		fmt.Fprintf(&shown, verb+"\n", key)
		fmt.Fprintf(&shown, verb+"\n", *key)
		fmt.Fprintf(&shown, verb+"\n", inside)
	}
	fmt.Fprintln(&shown, key, *key, inside)
	for _, h := range []slog.Handler{slog.NewTextHandler(&shown, nil), slog.NewJSONHandler(&shown, nil)} {
		slog.New(h).Info("start", "key", key, "value", *key, "inside", inside)
	}
	b, err := json.Marshal(inside)
	if err != nil {
		t.Fatal(err)
	}
	shown.Write(b)

	text := strings.ToLower(shown.String())
	for name, secret := range map[string]string{
		"text":            key.text(),
		"hex":             hex.EncodeToString(key.private.Seed()),
		"decimal":         strings.Trim(fmt.Sprint(key.private.Seed()), "[]"),
		"decimal, public": strings.Trim(fmt.Sprint([]byte(key.private[32:])), "[]"),
		"scalar":          hex.EncodeToString(key.scalar[:]),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("the key is shown as %s:\n%s", name, text)
		}
	}
	if !strings.Contains(text, strings.ToLower(hidden)) {
		t.Errorf("nothing was shown at all:\n%s", text)
	}
}

func TestParseSecretKey(t *testing.T) {
	key := testKey(t, 1)
	for _, text := range []string{key.text(), strings.ToUpper(key.text()), hex.EncodeToString(seed(1))} {
		got, err := ParseSecretKey(text)
		if err != nil || got.NodeID() != key.NodeID() {
			t.Errorf("%v", err)
		}
	}
	for _, text := range []string{"", "secretsecret", key.text()[1:], key.text()[:51] + "r", "zz" + hex.EncodeToString(seed(1))[2:]} {
		_, err := ParseSecretKey(text)
		if !errors.Is(err, ErrBadSecretKey) {
			t.Errorf("%q: %v", text, err)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error holds the text: %v", err)
		}
	}
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := SecretKeyFromSeed(make([]byte, n)); !errors.Is(err, ErrBadSecretKey) {
			t.Errorf("a seed of %d bytes: %v", n, err)
		}
	}
}

func TestGenerate(t *testing.T) {
	a, b := GenerateSecretKey(), GenerateSecretKey()
	if a.NodeID() == b.NodeID() || a.NodeID().IsZero() {
		t.Error("generated keys are not new")
	}
	if _, err := NodeIDFromBytes(a.id[:]); err != nil {
		t.Error(err)
	}
}

// S4: the reset key is HKDF-SHA256 of seed, salt and a fixed label, here once
// more by hand (RFC 5869 2), so that another salt is another key.
func TestResetKey(t *testing.T) {
	key, salt := testKey(t, 1), bytes.Repeat([]byte{9}, 32)
	extract := hmac.New(sha256.New, salt)
	extract.Write(seed(1))
	expand := hmac.New(sha256.New, extract.Sum(nil))
	expand.Write([]byte("nodetun stateless reset 1\x01"))
	if got := key.ResetKey(salt); !bytes.Equal(got[:], expand.Sum(nil)) {
		t.Errorf("key = %x", got)
	}
	if key.ResetKey(salt) == key.ResetKey(make([]byte, 32)) || key.ResetKey(salt) == testKey(t, 2).ResetKey(salt) {
		t.Error("salt or seed make no difference")
	}
}

func BenchmarkECDH(b *testing.B) {
	key, peer := testKey(b, 1), testKey(b, 2).NodeID()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := key.ECDH(peer); err != nil {
			b.Fatal(err)
		}
	}
}
