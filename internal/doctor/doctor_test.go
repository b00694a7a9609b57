package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/localapi"
)

var (
	own   = []netip.Addr{netip.MustParseAddr("fd6e:6f64:6574::1"), netip.MustParseAddr("198.18.0.1")}
	right = Answer{Addrs: own, Took: time.Millisecond}
	none  = Answer{Err: errNoName}
)

// names is a host on which all is well.
func names() Names {
	return Names{
		Zone: "node.internal", Name: "me.node.internal", Own: own, Mode: "file", Server: netip.MustParseAddrPort("127.0.0.153:53"),
		ResolvConf: "/etc/resolv.conf", Nameservers: []string{"127.0.0.153", "192.0.2.1"}, Switch: []string{"files", "dns"},
		FromServer: right, First: right, Library: right,
	}
}

func TestNamesFindings(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Names)
		// want is one word for each line: ok, or a part of what helps.
		want []string
	}{
		{"well", func(*Names) {}, []string{"ok", "ok", "ok"}},
		{"no getent", func(n *Names) { n.Library = Answer{Err: errNotAsked} }, []string{"ok", "ok", "ok"}},
		{"port taken", func(n *Names) { n.Server, n.FromServer, n.Library = netip.AddrPort{}, Answer{Err: errNotAsked}, none }, []string{"nodetun status", "above"}},
		{"firewall", func(n *Names) { n.FromServer = Answer{Err: errors.New("no answer")}; n.Library = none }, []string{"nft list ruleset", "above"}},
		{"another program has the address", func(n *Names) {
			n.FromServer = Answer{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}
			n.Library = none
		}, []string{"another program has that address", "above"}},
		{"an own server asks ours", func(n *Names) { n.Mode, n.Nameservers = "none", []string{"192.0.2.1"} }, []string{"ok", "ok", "ok"}},
		{"mode none", func(n *Names) { n.Mode, n.Nameservers, n.First, n.Library = "none", []string{"192.0.2.1"}, none, none }, []string{"ok", "have 192.0.2.1 ask 127.0.0.153:53", "above"}},
		{"another link of resolved", func(n *Names) {
			n.Mode, n.Nameservers, n.First, n.Library = "resolved", []string{"127.0.0.53"}, none, none
		}, []string{"ok", "resolvectl status", "above"}},
		{"overwritten", func(n *Names) { n.Nameservers, n.First, n.Library = []string{"192.0.2.1"}, none, none }, []string{"ok", "another program writes that file", "above"}},
		{"nsswitch without dns", func(n *Names) { n.Switch, n.Library = []string{"files", "mdns4_minimal", "[NOTFOUND=return]"}, none }, []string{"ok", "ok", "add dns"}},
		{"nsswitch ends early", func(n *Names) { n.Switch, n.Library = []string{"files", "mdns", "[NOTFOUND=return]", "dns"}, none }, []string{"ok", "ok", "[NOTFOUND=return]"}},
		{"nss-resolve beside mode file", func(n *Names) { n.Switch, n.Library = []string{"files", "resolve", "[!UNAVAIL=return]", "dns"}, none }, []string{"ok", "ok", `dns = "resolved"`}},
		{"nss-resolve", func(n *Names) { n.Mode, n.Switch = "resolved", []string{"files", "resolve"} }, []string{"ok", "ok", "ok"}},
		{"nscd", func(n *Names) { n.Cached, n.Library = true, none }, []string{"ok", "ok", "nscd"}},
		{"no nsswitch", func(n *Names) { n.Switch, n.Library = nil, none }, []string{"ok", "ok", "options"}},
		{"an address besides", func(n *Names) { n.Library = Answer{Addrs: append(slices.Clone(own), netip.MustParseAddr("192.0.2.7"))} }, []string{"ok", "ok", "options"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := names()
			tc.change(&n)
			list := n.Findings()
			if len(list) != len(tc.want) {
				t.Fatalf("%+v", list)
			}
			for i, f := range list {
				if want := tc.want[i]; f.OK != (want == "ok") || f.OK != (f.Fix == "") || !f.OK && !strings.Contains(f.Fix, want) {
					t.Errorf("%+v, want %s", f, want)
				}
			}
		})
	}
}

func TestFilesOfTheHost(t *testing.T) {
	if got := nameservers("# nameserver 192.0.2.9\nnameserver 192.0.2.1\nsearch x\n nameserver\t192.0.2.2\n"); !slices.Equal(got, []string{"192.0.2.1", "192.0.2.2"}) {
		t.Errorf("nameservers %q", got)
	}
	if got := nameservers(""); !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("nameservers of an empty file %q", got)
	}
	if got := hostsLine("passwd: files\n hosts:  files dns # and no more\n"); !slices.Equal(got, []string{"files", "dns"}) {
		t.Errorf("hosts %q", got)
	}
	if got := hostsLine("passwd: files\n"); got != nil {
		t.Errorf("hosts %q", got)
	}
}

func TestClock(t *testing.T) {
	for ahead, problem := range map[time.Duration]bool{0: false, -3 * time.Second: false, time.Hour: true, -time.Hour: true} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(-ahead).UTC().Format(http.TimeFormat))
		}))
		probe := AskClock(t.Context(), []localapi.Relay{{URL: "http://127.0.0.1:1/"}, {URL: server.URL}})
		list := probe.findings()
		if len(list) != 1 || list[0].OK == problem || (probe.Ahead-ahead).Abs() > 2*time.Second {
			t.Errorf("%v: %+v: %+v", ahead, probe, list)
		}
		server.Close()
	}
	if list := AskClock(context.Background(), nil).findings(); len(list) != 0 {
		t.Errorf("nobody was asked: %+v", list)
	}
	expired := ClockProbe{Server: "https://relay", Err: x509.CertificateInvalidError{Reason: x509.Expired}}
	if list := expired.findings(); len(list) != 1 || list[0].OK {
		t.Errorf("a certificate that is not valid yet: %+v", list)
	}
}

func TestHostFindings(t *testing.T) {
	status := localapi.Status{Health: []localapi.Health{
		{Level: "warn", Text: "IPv4 does not work in the tunnel: a firewall", Fix: "see nft"}, {Level: "warn", Text: "names do not resolve: x", Fix: "y"},
	}}
	up := &net.Interface{Name: "nt0", MTU: 1420, Flags: net.FlagUp}
	for _, tc := range []struct {
		name string
		host Host
		want int // problems
	}{
		{"well", Host{Link: up}, 0},
		{"status warns", Host{Link: up, Status: status}, 1}, // names are judged elsewhere
		{"no interface", Host{}, 1},
		{"down", Host{Link: &net.Interface{Name: "nt0", MTU: 1420}}, 1},
		{"small", Host{Link: &net.Interface{Name: "nt0", MTU: 1000, Flags: net.FlagUp}}, 1},
	} {
		list := tc.host.Findings()
		if got := Problems(list); got != tc.want {
			t.Errorf("%s: %d problems: %+v", tc.name, got, list)
		}
	}
}
