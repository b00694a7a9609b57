package identity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// InviteSecretLen is how long the secret of an invite is, in bytes.
const InviteSecretLen = 16

// Invite is what lets somebody become a peer of the node that made it, once: where that
// node is, and a secret (S24).
type Invite struct {
	Addr   NodeAddr
	Secret [InviteSecretLen]byte
}

// Errors about text that is no invite.
var (
	ErrBadInvite     = errors.New("not an invite")
	ErrDamagedInvite = errors.New("the invite is damaged: a character is wrong or missing")
)

// String hides the secret.
func (i Invite) String() string { return "Invite(" + i.Addr.ID.Short() + ")" }

// GoString hides the secret from %#v.
func (i Invite) GoString() string { return i.String() }

// LogValue hides the secret from logs.
func (i Invite) LogValue() slog.Value { return slog.StringValue(i.String()) }

// invitePrefix begins the text of an invite; inviteSumLen bytes of a checksum end it.
const (
	invitePrefix = "nt1"
	inviteSumLen = 4
)

// FormatInvite returns the text of an invite: "nt1" and the base32 of
//
//	secret 16 │ NodeAddr as in AppendNodeAddr │ first 4 bytes of the SHA-256 of these
func FormatInvite(i Invite) string {
	b := AppendNodeAddr(append([]byte(nil), i.Secret[:]...), i.Addr)
	return invitePrefix + encoding32.EncodeToString(append(b, inviteSum(b)...))
}

func inviteSum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("nodetun invite 1"), b...))
	return sum[:inviteSumLen]
}

// ParseInvite reads the text of an invite, in either case. Errors wrap ErrBadInvite or
// ErrDamagedInvite.
func ParseInvite(s string) (Invite, error) {
	text, ok := strings.CutPrefix(strings.ToLower(s), invitePrefix)
	if !ok {
		return Invite{}, fmt.Errorf("%w: it begins with %q", ErrBadInvite, invitePrefix)
	}
	b, err := parseBase32(text)
	if err != nil || len(b) < InviteSecretLen+inviteSumLen {
		return Invite{}, ErrDamagedInvite
	}
	b, sum := b[:len(b)-inviteSumLen], b[len(b)-inviteSumLen:]
	if string(inviteSum(b)) != string(sum) {
		return Invite{}, ErrDamagedInvite
	}
	i := Invite{Secret: [InviteSecretLen]byte(b)}
	if i.Addr, err = ParseNodeAddr(b[InviteSecretLen:]); err != nil {
		return Invite{}, fmt.Errorf("%w: %w", ErrBadInvite, err)
	}
	return i, nil
}
