package iroh1

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nodetun/nodetun/identity"
)

// AuthHeader is the header of the upgrade request that makes a challenge needless.
const AuthHeader = "X-Iroh-Relay-Client-Auth-V1"

// ExporterLabel names the keying material of AuthHeader (RFC 5705); its context is
// the client's key and its length KeyingLen.
const ExporterLabel = "iroh-relay handshake v1"

// Sizes of a login, in bytes.
const (
	ChallengeLen  = 16
	KeyingLen     = 32
	signatureLen  = 64
	clientAuthLen = 32 + 1 + signatureLen
	authHeaderLen = clientAuthLen + KeyingLen/2
)

// ErrLogin is returned for a login whose signature does not verify.
var ErrLogin = errors.New("bad relay login")

// AppendChallenge appends the frame that asks a client who it is.
func AppendChallenge(dst []byte, challenge [ChallengeLen]byte) []byte {
	return append(append(dst, byte(TypeServerChallenge)), challenge[:]...)
}

// ParseChallenge reads the body of one.
func ParseChallenge(body []byte) (challenge [ChallengeLen]byte, err error) {
	if len(body) < ChallengeLen {
		return challenge, fmt.Errorf("%w: challenge of %d bytes", ErrMalformed, len(body))
	}
	return [ChallengeLen]byte(body), nil
}

// AppendClientAuth appends the answer to a challenge.
func AppendClientAuth(dst []byte, key *identity.SecretKey, challenge [ChallengeLen]byte) []byte {
	return appendAuth(append(dst, byte(TypeClientAuth)), key.NodeID(), key.SignRelay1x(challenge))
}

// appendAuth appends a key and a signature, which has its length before it.
func appendAuth(dst []byte, id identity.NodeID, signature []byte) []byte {
	dst = append(dst, id[:]...)
	dst = append(dst, signatureLen)
	return append(dst, signature...)
}

// parseAuth reads what appendAuth wrote.
func parseAuth(b []byte) (id identity.NodeID, signature []byte, err error) {
	if len(b) < clientAuthLen || b[32] != signatureLen {
		return id, nil, fmt.Errorf("%w: login of %d bytes", ErrMalformed, len(b))
	}
	if id, err = identity.NodeIDFromBytes(b[:32]); err != nil {
		return id, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return id, b[33:clientAuthLen], nil
}

// ParseClientAuth reads and verifies the body of the answer to a challenge.
func ParseClientAuth(body []byte, challenge [ChallengeLen]byte) (identity.NodeID, error) {
	id, signature, err := parseAuth(body)
	if err != nil {
		return identity.NodeID{}, err
	}
	message := identity.Relay1xMessage(challenge)
	if !id.Verify(message[:], signature) {
		return identity.NodeID{}, ErrLogin
	}
	return id, nil
}

// AuthHeaderValue returns the value of AuthHeader for the keying material of the
// connection.
func AuthHeaderValue(key *identity.SecretKey, keying [KeyingLen]byte) string {
	b := appendAuth(make([]byte, 0, authHeaderLen), key.NodeID(), key.SignRelay1xTLS([16]byte(keying[:16])))
	return base64.RawURLEncoding.EncodeToString(append(b, keying[16:]...))
}

// Auth is a parsed AuthHeader.
type Auth struct {
	Node      identity.NodeID
	signature []byte
	suffix    [KeyingLen / 2]byte
}

// ParseAuthHeader reads the value of AuthHeader and proves nothing.
func ParseAuthHeader(value string) (Auth, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) < authHeaderLen {
		return Auth{}, fmt.Errorf("%w: header %s", ErrMalformed, AuthHeader)
	}
	id, signature, err := parseAuth(b)
	if err != nil {
		return Auth{}, err
	}
	return Auth{Node: id, signature: signature, suffix: [KeyingLen / 2]byte(b[clientAuthLen:])}, nil
}

// Verify says that the header was made for the connection with this keying
// material, exported for Node, by Node.
func (a Auth) Verify(keying [KeyingLen]byte) bool {
	return a.suffix == [KeyingLen / 2]byte(keying[16:]) && a.Node.Verify(keying[:16], a.signature)
}

// AppendConfirm appends the frame that lets a client in.
func AppendConfirm(dst []byte) []byte { return append(dst, byte(TypeServerConfirmsAuth)) }

// AppendDeny appends the frame that refuses a client, with a reason.
func AppendDeny(dst []byte, reason string) []byte {
	reason = reason[:min(len(reason), maxText/2)]
	dst = binary.AppendUvarint(append(dst, byte(TypeServerDeniesAuth)), uint64(len(reason)))
	return append(dst, reason...)
}

// ParseDeny reads the reason.
func ParseDeny(body []byte) (string, error) {
	length, n := binary.Uvarint(body)
	if n <= 0 || length > uint64(len(body)-n) {
		return "", fmt.Errorf("%w: reason cut short", ErrMalformed)
	}
	return string(body[n : n+int(length)]), nil
}
