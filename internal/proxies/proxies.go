package proxies

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/nodetun/nodetun/identity"
)

// Proxies knows which proxy leads where. The zero value knows none; it is safe for
// concurrent use.
type Proxies struct {
	choose func(*url.URL) (*url.URL, error)
	list   []Source
	err    error
}

// Source is one proxy and where it was named.
type Source struct {
	// URL has no password.
	URL string
	// From is a setting, or a variable of the environment.
	From string
}

// schemes are those of proxies that can be used.
var schemes = []string{"http", "socks5", "socks5h"}

// Parse reads the URL of a proxy.
func Parse(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text // as curl takes it
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, errors.New("is no URL of a proxy (such as http://proxy.example.com:3128)") // the URL may hold a password
	case !slices.Contains(schemes, u.Scheme):
		return nil, fmt.Errorf("names a proxy of a kind that cannot be used: %s (use http or socks5)", identity.Clean(u.Scheme, 16))
	}
	return u, nil
}

// New finds the proxies: set, which Parse takes, for everything; if that is empty those of
// https_proxy, http_proxy and all_proxy, in small or capital letters. no_proxy lists hosts
// that are reached without, and so is loopback.
func New(set string) *Proxies { return newProxies(set, os.Getenv) }

func newProxies(set string, env func(string) string) *Proxies {
	p := &Proxies{}
	variable := func(name string) (value, from string) {
		for _, name := range []string{name, strings.ToUpper(name)} {
			// A CGI program is given HTTP_PROXY by whoever asks it.
			if value := env(name); value != "" && !(name == "HTTP_PROXY" && env("REQUEST_METHOD") != "") {
				return value, name
			}
		}
		return "", ""
	}
	all, allFrom := variable("all_proxy")
	https, httpsFrom := variable("https_proxy")
	http, httpFrom := variable("http_proxy")
	if https == "" {
		https, httpsFrom = all, allFrom
	}
	if http == "" {
		http, httpFrom = all, allFrom
	}
	if set != "" {
		https, http, httpsFrom, httpFrom = set, set, "nodetun.toml", "nodetun.toml"
	}
	no, _ := variable("no_proxy")
	config := httpproxy.Config{HTTPSProxy: p.use(https, httpsFrom), HTTPProxy: p.use(http, httpFrom), NoProxy: no}
	p.choose = config.ProxyFunc()
	return p
}

// use notes a proxy and returns its URL, empty if it cannot be used.
func (p *Proxies) use(text, from string) string {
	if text == "" {
		return ""
	}
	u, err := Parse(text)
	if err != nil {
		p.err = cmp.Or(p.err, fmt.Errorf("%s %w", from, err))
		return ""
	}
	shown := *u
	if shown.User != nil {
		shown.User = url.User(shown.User.Username())
	}
	if s := (Source{URL: shown.String(), From: from}); !slices.Contains(p.list, s) {
		p.list = append(p.list, s)
	}
	return u.String()
}

// For returns the proxy for a URL, nil for none.
func (p *Proxies) For(target *url.URL) *url.URL {
	if p == nil || p.choose == nil {
		return nil
	}
	u := *target
	if u.Scheme != "http" && u.Scheme != "ws" {
		u.Scheme = "https"
	} else {
		u.Scheme = "http"
	}
	// no_proxy names hosts without the dot of the root.
	u.Host = strings.Replace(u.Host, u.Hostname(), strings.TrimSuffix(u.Hostname(), "."), 1)
	found, err := p.choose(&u)
	if err != nil {
		return nil
	}
	return found
}

// Sources lists the proxies.
func (p *Proxies) Sources() []Source {
	if p == nil {
		return nil
	}
	return slices.Clone(p.list)
}

// Err tells of a proxy that was named and cannot be used.
func (p *Proxies) Err() error {
	if p == nil {
		return nil
	}
	return p.err
}
