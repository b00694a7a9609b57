package identity

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestParseRelayURL(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"name", "https://example.com", "https://example.com./"},
		{"name with a dot", "https://example.com.", "https://example.com./"},
		{"normal form", "https://example.com./", "https://example.com./"},
		{"upper case", "HTTPS://Relay.EXAMPLE.com/", "https://relay.example.com./"},
		{"path", "https://example.com/a/B", "https://example.com./a/B"},
		{"escaped path", "https://example.com/a%2Fb", "https://example.com./a%2Fb"},
		{"space in the path", "https://example.com/a b", "https://example.com./a%20b"},
		{"path beyond ASCII", "https://example.com/ä", "https://example.com./%C3%A4"},
		{"default port", "https://example.com:443", "https://example.com./"},
		{"default port with a zero", "https://example.com:0443", "https://example.com./"},
		{"default port of http", "http://example.com:80/", "http://example.com./"},
		{"port of the other", "http://example.com:443", "http://example.com.:443/"},
		{"empty port", "https://example.com:/", "https://example.com./"},
		{"port", "https://example.com:3340", "https://example.com.:3340/"},
		{"single label", "http://localhost:3340", "http://localhost.:3340/"},
		{"underscore", "https://my_relay.example", "https://my_relay.example./"},
		{"xn--", "https://xn--bcher-kva.example", "https://xn--bcher-kva.example./"},
		{"empty fragment", "https://example.com/#", "https://example.com./"},
		{"IPv4", "http://127.0.0.1:4433/", "http://127.0.0.1:4433/"},
		{"IPv4, default port", "http://127.0.0.1:80", "http://127.0.0.1/"},
		{"IPv6", "https://[2001:DB8:0::7]:3340", "https://[2001:db8::7]:3340/"},
		{"IPv6, default port", "https://[2001:db8::7]:443", "https://[2001:db8::7]/"},
		{"number before a name", "https://1.example", "https://1.example./"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseRelayURL(tc.in)
			if err != nil || got.String() != tc.want {
				t.Fatalf("%q, %v, want %q", got, err, tc.want)
			}
			if again, err := ParseRelayURL(got.String()); err != nil || again != got {
				t.Errorf("the normal form becomes %q, %v", again, err)
			}
			if p := got.Parsed(); p.String() != tc.want {
				t.Errorf("Parsed = %v", p)
			}
		})
	}
}

// S10, S22: what hides an address from later checks, or text from the reader,
// is no relay URL.
func TestParseRelayURLRefused(t *testing.T) {
	for _, tc := range []struct{ name, in string }{
		{"empty", ""},
		{"no scheme", "example.com"},
		{"other scheme", "ftp://example.com"},
		{"opaque", "https:example.com"},
		{"no host", "https:///x"},
		{"dots only", "https://./"},
		{"user", "https://user@example.com"},
		{"password", "https://user:pw@example.com"},
		{"query", "https://example.com/?x=1"},
		{"empty query", "https://example.com/?"},
		{"fragment", "https://example.com/#x"},
		{"port 0", "https://example.com:0"},
		{"port too large", "https://example.com:65536"},
		{"port no number", "https://example.com:x"},
		{"zone", "https://[fe80::1%25eth0]/"},
		{"empty label", "https://a..example"},
		{"long label", "https://" + strings.Repeat("a", 64) + ".example"},
		{"long name", "https://" + strings.Repeat("a.", 127) + "example"},
		{"too long once the dot is there", "https://example.com/" + strings.Repeat("a", 235)},
		{"too long", "https://example.com/" + strings.Repeat("a", 300)},
		{"IPv4 with a final dot", "https://127.0.0.1./"},
		{"IPv4 in one number", "https://2130706433/"},
		{"IPv4 in two parts", "https://127.1/"},
		{"IPv4 in hex", "https://0x7f000001/"},
		{"IPv4 in octal", "https://0177.0.0.1/"},
		{"not quite IPv4", "https://256.1.1.1/"},
		{"letters beyond ASCII", "https://bücher.example/"},
		{"right-to-left override", "https://example\u202e.com/"},
		{"full-width digits", "https://１２７.0.0.1/"},
		{"escaped host", "https://exa%6dple.com/"},
		{"control character", "https://example.com/\x1b[2J"},
		{"line end in the host", "https://example.com\n.evil/"},
		{"space", "https://exam ple.com/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseRelayURL(tc.in)
			if !errors.Is(err, ErrBadRelayURL) {
				t.Fatalf("%q, %v, want %v", got, err, ErrBadRelayURL)
			}
			if strings.ContainsAny(err.Error(), "\x1b\n\u202e") {
				t.Errorf("the message holds raw text: %q", err)
			}
		})
	}
}

func TestRelayURLText(t *testing.T) {
	type holder struct{ A, B RelayURL }
	var got holder
	if err := json.Unmarshal([]byte(`{"A":"https://Example.com","B":""}`), &got); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(got)
	if err != nil || string(b) != `{"A":"https://example.com./","B":""}` {
		t.Errorf("%s, %v", b, err)
	}
	if !got.B.IsZero() || got.B.Parsed() != nil || got.A.IsZero() {
		t.Errorf("%+v", got)
	}
	if err := json.Unmarshal([]byte(`{"A":"x"}`), &got); !errors.Is(err, ErrBadRelayURL) {
		t.Errorf("%v, want %v", err, ErrBadRelayURL)
	}
}

func FuzzParseRelayURL(f *testing.F) {
	for _, s := range []string{"https://example.com", "http://127.0.0.1:4433/", "https://[2001:db8::7]:443/a%2Fb", "https://127.1."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseRelayURL(s)
		if err != nil {
			return
		}
		if again, err := ParseRelayURL(u.String()); err != nil || again != u {
			t.Errorf("%q becomes %q becomes %q, %v", s, u, again, err)
		}
		if strings.ContainsFunc(u.String(), func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("%q holds what cannot be shown", u)
		}
		if p, err := url.Parse(u.String()); err != nil || p.Hostname() == "" || *u.Parsed() != *p {
			t.Errorf("%q: %v, %v", u, p, err)
		}
	})
}
