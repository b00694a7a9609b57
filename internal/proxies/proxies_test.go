package proxies

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestProxies(t *testing.T) {
	for _, tc := range []struct {
		name, set string
		env       map[string]string
		target    string
		want      string // empty: none
		from      string
		err       string
	}{
		{name: "none", target: "https://relay.test./"},
		{name: "set", set: "http://a:p%40ss@10.0.0.1:3128", target: "https://relay.test./", want: "http://a:p%40ss@10.0.0.1:3128", from: "nodetun.toml"},
		{name: "set, before the environment", set: "http://10.0.0.1:3128", env: map[string]string{"https_proxy": "http://10.0.0.2:1"}, target: "https://relay.test/", want: "http://10.0.0.1:3128", from: "nodetun.toml"},
		{name: "https", env: map[string]string{"https_proxy": "10.0.0.1:3128"}, target: "https://relay.test/", want: "http://10.0.0.1:3128", from: "https_proxy"},
		{name: "capitals", env: map[string]string{"HTTPS_PROXY": "http://10.0.0.1:3128"}, target: "wss://relay.test/", want: "http://10.0.0.1:3128", from: "HTTPS_PROXY"},
		{name: "https is not http", env: map[string]string{"https_proxy": "http://10.0.0.1:3128"}, target: "http://relay.test/", from: "https_proxy"},
		{name: "all", env: map[string]string{"ALL_PROXY": "socks5h://10.0.0.1:1080"}, target: "http://relay.test/", want: "socks5h://10.0.0.1:1080", from: "ALL_PROXY"},
		{name: "no proxy", env: map[string]string{"https_proxy": "http://10.0.0.1:3128", "no_proxy": ".test"}, target: "https://relay.test./", from: "https_proxy"},
		{name: "loopback", set: "http://10.0.0.1:3128", target: "http://127.0.0.1:3340/", from: "nodetun.toml"},
		{name: "of a kind that cannot be used", env: map[string]string{"https_proxy": "ftp://user:secret@10.0.0.1:21"}, target: "https://relay.test/", err: "https_proxy names a proxy of a kind that cannot be used: ftp"},
		{name: "not to be read", env: map[string]string{"https_proxy": "http://user:secret@[::1"}, target: "https://relay.test/", err: "https_proxy is no URL of a proxy"},
		{name: "asked by CGI", env: map[string]string{"HTTP_PROXY": "http://10.0.0.1:3128", "REQUEST_METHOD": "GET"}, target: "http://relay.test/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProxies(tc.set, func(name string) string { return tc.env[name] })
			target, err := url.Parse(tc.target)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if u := p.For(target); u != nil {
				got = u.String()
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			from := slices.ContainsFunc(p.Sources(), func(s Source) bool { return s.From == tc.from && !strings.Contains(s.URL, "p%40ss") })
			if from != (tc.from != "") {
				t.Errorf("sources %+v, want %q", p.Sources(), tc.from)
			}
			text := ""
			if p.Err() != nil {
				text = p.Err().Error()
			}
			if !strings.Contains(text, tc.err) || (text == "") != (tc.err == "") || strings.Contains(text, "secret") {
				t.Errorf("error %q, want %q", text, tc.err)
			}
		})
	}
}
