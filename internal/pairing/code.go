package pairing

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/crypto/scrypt"

	"github.com/nodetun/nodetun/identity"
)

// ErrBadCode says that a text is no code.
var ErrBadCode = errors.New("a code has nine digits, as `nodetun pair` shows them on the other machine")

// Code is where two machines meet: nine digits.
type Code string

// digits of a code, and of a group in which it is read aloud.
const (
	codeDigits  = 9
	groupDigits = 3
)

// NewCode makes a code that nobody can know.
func NewCode() Code {
	n, _ := rand.Int(rand.Reader, big.NewInt(1e9)) // never fails (crypto/rand)
	return Code(fmt.Sprintf("%0*d", codeDigits, n))
}

// ParseCode reads a code as it is typed; what is no digit does not matter, unless it is a
// letter. Errors are ErrBadCode.
func ParseCode(text string) (Code, error) {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r >= '0' && r <= '9':
			b.WriteRune(r)
		case strings.ContainsRune(" -.,·\t\n", r):
		default:
			return "", ErrBadCode
		}
	}
	if b.Len() != codeDigits {
		return "", ErrBadCode
	}
	return Code(b.String()), nil
}

// String groups the digits.
func (c Code) String() string { return groups(string(c)) }

func groups(digits string) string {
	var list []string
	for ; len(digits) > groupDigits; digits = digits[groupDigits:] {
		list = append(list, digits[:groupDigits])
	}
	return strings.Join(append(list, digits), " ")
}

// Key is the identity of the machine that waits. It takes some 100 ms to make, so that a
// relay does not simply try all codes.
func (c Code) Key() (*identity.SecretKey, error) {
	seed, err := scrypt.Key([]byte(c), []byte("nodetun pair 1"), 1<<15, 8, 1, 32)
	if err != nil {
		return nil, err
	}
	return identity.SecretKeyFromSeed(seed)
}
