package relay

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/identity"
)

// A login by challenge is good for that relay and that challenge only (S1, S2).
func TestChallengeLogin(t *testing.T) {
	key := identity.GenerateSecretKey()
	given := &Challenge{Host: "relay.example:443", Data: [32]byte{1, 2, 3}}
	login := func(c Challenge) []byte {
		frame, err := AppendChallengeLogin(nil, key, c)
		if err != nil {
			t.Fatal(err)
		}
		return frame[HeaderLen:]
	}
	good := login(*given)
	stolen := append([]byte(nil), good...)
	thief := identity.GenerateSecretKey().NodeID()
	copy(stolen[len(loginMagic):], thief[:])
	constant := AppendClientInfo(nil, key)[HeaderLen:]
	relabelled := append(append([]byte(nil), constant[:len(constant)-1]...), challengeLogin)
	for _, test := range []struct {
		name  string
		body  []byte
		given *Challenge
		fresh bool
		want  error
	}{
		{"good", good, given, true, nil},
		{"of version 3 all the same", constant, given, false, nil},
		{"of version 3, called an answer", relabelled, given, false, ErrLogin},
		{"another relay", login(Challenge{Host: "evil.example:443", Data: given.Data}), given, false, ErrLogin},
		{"another challenge", login(Challenge{Host: given.Host}), given, false, ErrLogin},
		{"another key", stolen, given, false, ErrLogin},
		{"no challenge was given", good, nil, false, ErrLogin},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, fresh, err := ParseClientInfo(test.body, test.given)
			if !errors.Is(err, test.want) || fresh != test.fresh || err == nil && id != key.NodeID() {
				t.Errorf("got %v, %v, %v", id, fresh, err)
			}
		})
	}
	for _, host := range []string{"", strings.Repeat("a", 256)} {
		if _, err := AppendChallengeLogin(nil, key, Challenge{Host: host}); err == nil {
			t.Errorf("a host of %d bytes", len(host))
		}
	}
}
