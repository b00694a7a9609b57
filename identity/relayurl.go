package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
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
	return RelayURL{text: u.Scheme + "://" + host + path}, nil
}

// normalHost returns host and port in the form that is kept.
func normalHost(u *url.URL) (string, error) {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && addr.Zone() != "":
		return "", fmt.Errorf("%w: an address with a zone", ErrBadRelayURL)
	case err == nil && addr.Is6():
		host = "[" + addr.String() + "]"
	case err == nil:
		host = addr.String()
	case strings.ContainsAny(host, " %[]:/\\") || strings.Trim(host, ".") == "":
		return "", fmt.Errorf("%w: host %q", ErrBadRelayURL, Clean(host, 80))
	case !strings.HasSuffix(host, "."):
		host += "."
	}
	standard := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if port == "" || port == standard {
		return host, nil
	}
	if _, err := netip.ParseAddrPort("127.0.0.1:" + port); err != nil || port == "0" {
		return "", fmt.Errorf("%w: port %q", ErrBadRelayURL, Clean(port, 10))
	}
	return host + ":" + port, nil
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
