package relay

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nodetun/nodetun/identity"
)

// Version is the version of the relay protocol that these frames belong to.
const Version = 3

// Between our own client and server a login answers a challenge, so that nobody
// who saw it can use it again (S1, S2). The client names the host that it dialled
// in the header LoginHeader of its request; a server that knows itself by that name
// answers with 32 random bytes in ChallengeHeader, in hex. ClientInfo then holds
// the signature of identity.LoginMessage and ends with the byte 0 where one of
// version 3 has its version. Other servers and clients know neither header.
const (
	LoginHeader     = "Nodetun-Login"
	ChallengeHeader = "Nodetun-Challenge"
	// RefusalHeader says in an answer that is no upgrade why not, in words.
	RefusalHeader = "Nodetun-Refusal"
)

// challengeLogin is the version of a ClientInfo that answers a challenge.
const challengeLogin = 0

// Challenge is what a login answers, of the relay that was dialled as Host: its
// name in lower case without a final dot, and its port.
type Challenge struct {
	Host string
	Data [32]byte
}

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
	return appendLogin(dst, key.NodeID(), key.SignRelayV3(), Version)
}

// AppendChallengeLogin appends the login of a client that answers a challenge. It
// fails for a host of more than 255 bytes.
func AppendChallengeLogin(dst []byte, key *identity.SecretKey, c Challenge) ([]byte, error) {
	signature, err := key.SignLogin(c.Host, c.Data)
	if err != nil {
		return dst, err
	}
	return appendLogin(dst, key.NodeID(), signature, challengeLogin), nil
}

func appendLogin(dst []byte, id identity.NodeID, signature []byte, version byte) []byte {
	dst = appendHeader(dst, TypeClientInfo, loginFixed+1)
	dst = append(dst, loginMagic...)
	dst = append(dst, id[:]...)
	dst = append(dst, signature...)
	return append(dst, version)
}

// ParseClientInfo reads and verifies the body of a ClientInfo. c is the challenge
// that was given to the client, nil for none; fresh says that it was answered. With
// ErrVersion the NodeID is proven all the same, so that access is decided first.
func ParseClientInfo(body []byte, c *Challenge) (id identity.NodeID, fresh bool, err error) {
	if len(body) <= loginFixed || string(body[:len(loginMagic)]) != loginMagic {
		return identity.NodeID{}, false, ErrLogin
	}
	rest := body[len(loginMagic):]
	id, err = identity.NodeIDFromBytes(rest[:KeyLen])
	if err != nil {
		return identity.NodeID{}, false, fmt.Errorf("%w: %w", ErrLogin, err)
	}
	signature, message := rest[KeyLen:KeyLen+64], rest[KeyLen+64:]
	fresh = c != nil && len(message) == 1 && message[0] == challengeLogin
	signed := message
	if fresh {
		if signed, err = identity.LoginMessage(c.Host, c.Data, id); err != nil {
			return identity.NodeID{}, false, fmt.Errorf("%w: %w", ErrLogin, err)
		}
	}
	if !id.Verify(signed, signature) {
		return identity.NodeID{}, false, ErrLogin
	}
	if fresh {
		return id, true, nil
	}
	if version, n := binary.Uvarint(message); n <= 0 || version != Version {
		return id, false, ErrVersion
	}
	return id, false, nil
}
