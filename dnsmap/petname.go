package dnsmap

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/nodetun/nodetun/identity"
)

// DefaultZone is the zone when none is set.
const DefaultZone = "node.internal"

var (
	// ErrBadPetname is wrapped when a name may not be a petname.
	ErrBadPetname = errors.New("bad name")
	// ErrNameTaken is wrapped when a petname belongs to another node.
	ErrNameTaken = errors.New("name taken")
	// ErrBadZone is wrapped when a zone is no domain name or leaves no room
	// for a NodeID.
	ErrBadZone = errors.New("bad zone")
)

const (
	maxLabel   = 63
	nodeIDText = 52 // characters of a NodeID in base32: never a petname
	maxZone    = 253 - nodeIDText - 1
)

// reservedNames lists names that programs and people give a meaning of their
// own (S21).
var reservedNames = []string{
	"localhost", "wpad", "isatap", "autodiscover", "broadcasthost", "router", "gateway", "dns", "ns", "www", "api",
}

// ValidPetname says whether a node may be called so (S21): letters, digits and
// inner hyphens, 1 to 63 of them, not digits only, not 52 characters (which
// look like a NodeID), not xn--…, and none of the names that mean something
// else. Case does not matter. Errors wrap ErrBadPetname. That the name is not
// this host's own is checked by Names.Add.
func ValidPetname(s string) error {
	lower := toLower(s)
	switch {
	case !isLabel(lower):
		why := "use 1 to 63 letters, digits and inner hyphens"
		if like := suggest(s); like != "" {
			why += ", such as " + like
		}
		return badPetname(s, why)
	case strings.Trim(lower, "0123456789") == "":
		return badPetname(s, "it must not be digits only")
	case len(lower) == nodeIDText:
		return badPetname(s, "52 characters look like a node id")
	case strings.HasPrefix(lower, "xn--"):
		return badPetname(s, "xn-- stands for another script")
	case slices.Contains(reservedNames, lower):
		return badPetname(s, "it is reserved")
	}
	return nil
}

// german are letters that are more than one without their marks.
var german = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "ß", "ss", "æ", "ae", "ø", "oe", "å", "aa", "œ", "oe", "'", "", "’", "")

// suggest returns a petname that is like a name which cannot be one, empty for none.
func suggest(s string) string {
	var b strings.Builder
	for _, c := range norm.NFD.String(german.Replace(strings.ToLower(s))) {
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			b.WriteRune(c)
		case unicode.Is(unicode.Mn, c): // the mark of a letter
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() == maxLabel {
			break
		}
	}
	if like := strings.Trim(b.String(), "-"); isLabel(like) && ValidPetname(like) == nil {
		return like
	}
	return ""
}

func badPetname(s, why string) error {
	return fmt.Errorf("%w %q: %s", ErrBadPetname, identity.Clean(s, maxLabel), why)
}

// isLabel reports whether s, in lower case, is a host name label.
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// parseZone returns the zone in lower case with its final dot.
func parseZone(s string) (string, error) {
	if s == "" {
		s = DefaultZone
	}
	zone := toLower(strings.TrimSuffix(s, "."))
	labels := strings.Split(zone, ".")
	if len(zone) > maxZone || slices.ContainsFunc(labels, func(l string) bool { return !isLabel(l) }) {
		return "", fmt.Errorf("%w %q: use a domain name such as %s", ErrBadZone, identity.Clean(s, maxLabel), DefaultZone)
	}
	switch last := labels[len(labels)-1]; {
	case last == "arpa" || last == "local" || last == "localhost" || strings.Trim(last, "0123456789") == "":
		return "", fmt.Errorf("%w %q: names below %s have another meaning", ErrBadZone, zone, last)
	}
	return zone + ".", nil
}

// toLower changes the letters of ASCII only, as DNS does (RFC 4343).
// strings.ToLower would make a k of the Kelvin sign.
func toLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
