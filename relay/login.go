package relay

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nodetun/nodetun/identity"
)

// Version is the version of the relay protocol that these frames belong to.
const Version = 3

// loginMagic is "RELAY" and a key emoji.
const loginMagic = "RELAY\xf0\x9f\x94\x91"

// loginFixed is the length of ClientInfo without its message.
const loginFixed = len(loginMagic) + KeyLen + 64

// What may be wrong with a login. A server closes the connection.
var (
	// ErrLogin is returned for a ClientInfo without magic, with a bad key or
	// with a signature that does not verify.
	ErrLogin = errors.New("bad relay login")
	// ErrVersion is returned, with a proven NodeID, for another version.
	ErrVersion = errors.New("unsupported relay protocol version")
)

// AppendClientInfo appends the login of a client. The same key always gives
// the same bytes: whoever sees them can replay them (S2).
func AppendClientInfo(dst []byte, key *identity.SecretKey) []byte {
	id := key.NodeID()
	dst = appendHeader(dst, TypeClientInfo, loginFixed+1)
	dst = append(dst, loginMagic...)
	dst = append(dst, id[:]...)
	dst = append(dst, key.SignRelayV3()...)
	return append(dst, Version)
}

// ParseClientInfo reads and verifies the body of a ClientInfo. With ErrVersion
// the NodeID is proven all the same, so that access is decided first.
func ParseClientInfo(body []byte) (identity.NodeID, error) {
	if len(body) <= loginFixed || string(body[:len(loginMagic)]) != loginMagic {
		return identity.NodeID{}, ErrLogin
	}
	rest := body[len(loginMagic):]
	id, err := identity.NodeIDFromBytes(rest[:KeyLen])
	if err != nil {
		return identity.NodeID{}, fmt.Errorf("%w: %w", ErrLogin, err)
	}
	signature, message := rest[KeyLen:KeyLen+64], rest[KeyLen+64:]
	if !id.Verify(message, signature) {
		return identity.NodeID{}, ErrLogin
	}
	if version, n := binary.Uvarint(message); n <= 0 || version != Version {
		return id, ErrVersion
	}
	return id, nil
}
