package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// RelayURL names a relay. It is kept normalised, so that two that mean the
// same are equal: a domain name ends with a dot, an empty path is "/", default
// ports are left out, scheme and host are lower case. The zero value is none.
type RelayURL struct{ text string }

// ErrBadRelayURL is wrapped by errors about text that is no relay URL.
var ErrBadRelayURL = errors.New("not a relay url")

// maxRelayURL bounds the text of a relay URL in bytes (S10).
const maxRelayURL = 255

// ParseRelayURL reads and normalises an http or https URL. User info, query
// and fragment are refused.
func ParseRelayURL(s string) (RelayURL, error) {
	if len(s) > maxRelayURL {
		return RelayURL{}, fmt.Errorf("%w: longer than %d bytes", ErrBadRelayURL, maxRelayURL)
	}
	u, err := url.Parse(s)
	if err != nil {
		return RelayURL{}, fmt.Errorf("%w: %q", ErrBadRelayURL, Clean(s, 80))
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return RelayURL{}, fmt.Errorf("%w: %q does not begin with https:// or http://", ErrBadRelayURL, Clean(s, 80))
	case u.Hostname() == "":
		return RelayURL{}, fmt.Errorf("%w: %q has no host", ErrBadRelayURL, Clean(s, 80))
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return RelayURL{}, fmt.Errorf("%w: user, query and fragment are not allowed", ErrBadRelayURL)
	}
	host, err := normalHost(u)
	if err != nil {
		return RelayURL{}, err
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	text := u.Scheme + "://" + host + path
	if len(text) > maxRelayURL {
		return RelayURL{}, fmt.Errorf("%w: longer than %d bytes", ErrBadRelayURL, maxRelayURL)
	}
	return RelayURL{text: text}, nil
}

// normalHost returns host and port in the form that is kept.
func normalHost(u *url.URL) (string, error) {
	host, text := u.Hostname(), u.Port()
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		if host, err = normalName(host); err != nil {
			return "", err
		}
	case addr.Zone() != "":
		return "", fmt.Errorf("%w: an address with a zone", ErrBadRelayURL)
	case addr.Is6():
		host = "[" + addr.String() + "]"
	default:
		host = addr.String()
	}
	if text == "" {
		return host, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	switch {
	case err != nil || port == 0:
		return "", fmt.Errorf("%w: port %q", ErrBadRelayURL, Clean(text, 10))
	case port == 80 && u.Scheme == "http", port == 443 && u.Scheme == "https":
		return host, nil
	default:
		return host + ":" + strconv.FormatUint(port, 10), nil
	}
}

// normalName returns a domain name in lower case with its final dot. A name
// that ends in a number is refused: resolvers take 127.1 and 2130706433 for
// addresses, and no check of addresses would see them (WHATWG URL, "ends in a
// number").
func normalName(host string) (string, error) {
	refused := fmt.Errorf("%w: host %q", ErrBadRelayURL, Clean(host, 80))
	if strings.ContainsFunc(host, func(r rune) bool { return r > '~' }) {
		return "", fmt.Errorf("%w (write its xn--… form)", refused)
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	labels := strings.Split(name, ".")
	if len(name) > 253 || slices.ContainsFunc(labels, isNoLabel) {
		return "", refused
	}
	if isNumber(labels[len(labels)-1]) {
		return "", refused
	}
	return name + ".", nil
}

// isNoLabel reports whether s may not stand between the dots of a name, which
// is made of letters, digits, hyphens, and the underscores that some hosts do
// have.
func isNoLabel(s string) bool {
	return s == "" || len(s) > 63 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
}

// isNumber reports whether a last label reads as a part of an IPv4 address.
func isNumber(s string) bool {
	digits, set := s, "0123456789"
	if rest, ok := strings.CutPrefix(s, "0x"); ok {
		digits, set = rest, "0123456789abcdef"
	}
	return strings.Trim(digits, set) == ""
}

// String returns the normalised text, empty for none.
func (u RelayURL) String() string { return u.text }

// IsZero reports whether u names no relay.
func (u RelayURL) IsZero() bool { return u.text == "" }

// Parsed returns the URL in parts, nil for none.
func (u RelayURL) Parsed() *url.URL {
	if u.IsZero() {
		return nil
	}
	parsed, err := url.Parse(u.text)
	if err != nil {
		return nil // not reached: the text was made by ParseRelayURL
	}
	return parsed
}

// MarshalText returns the normalised text, empty for none.
func (u RelayURL) MarshalText() ([]byte, error) { return []byte(u.text), nil }

// UnmarshalText is ParseRelayURL; empty text gives none.
func (u *RelayURL) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*u = RelayURL{}
		return nil
	}
	parsed, err := ParseRelayURL(string(text))
	if err != nil {
		return err
	}
	*u = parsed
	return nil
}
