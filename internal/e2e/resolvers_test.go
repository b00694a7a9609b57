//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// dnsHost is a way in which a host of Debian has its names. Scripts run as root on the
// host, whose link is eth0, and whose server is 10.0.0.254; they start and stop programs
// that run beside them by `start PROGRAM ARGS` and `stop NAME`.
type dnsHost struct {
	name     string
	packages []string
	// prepare comes before nodetun. What it starts is ended with the test.
	prepare string
	// mode is what dns = "auto" makes of it.
	mode string
	// disturbances are what happens to such a host; names are back after each.
	disturbances []string
	// ours is whether resolv.conf is changed by nodetun.
	ours bool
}

// services begins each script. What runs beside it has no part in its outputs. Programs are
// ended by their ids: this machine may have others of the same name.
const services = `
start() {
	"$@" >>/run/log 2>&1 &
	echo $! >/run/"${1##*/}".id
}
stop() {
	id=$(cat /run/"$1".id)
	kill "$id"
	while kill -0 "$id" 2>/dev/null; do sleep 0.05; done
}
`

const (
	bus = `
dbus-daemon --system --fork --nopidfile
`
	resolved = `
echo systemd-resolve:x:996:996::/:/usr/sbin/nologin >>/etc/passwd` + bus + `
mkdir -p /run/systemd/resolve
chown 996:996 /run/systemd/resolve
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
start /lib/systemd/systemd-resolved
until resolvectl status >/dev/null 2>&1; do sleep 0.05; done
`
	// The connection takes over an interface that has its address.
	networkManager = `
mkdir -p /etc/NetworkManager/system-connections /var/lib/NetworkManager
umask 077
cat >/etc/NetworkManager/system-connections/lan.nmconnection <<X
[connection]
id=lan
type=ethernet
interface-name=eth0
[ipv4]
method=manual
address1=10.0.0.1/24
dns=10.0.0.254;
[ipv6]
method=link-local
X
umask 022
printf '[main]\nplugins=keyfile\n' >/etc/NetworkManager/conf.d/test.conf
start NetworkManager -n
until nmcli con up lan >/dev/null 2>&1; do sleep 0.1; done
`
	restartManager = `
stop NetworkManager
start NetworkManager -n
until nmcli -t -f STATE general 2>/dev/null | grep -q ^connected; do sleep 0.05; done
`
)

var dnsHosts = []dnsHost{
	{
		name: "file", mode: "file", ours: true, prepare: `echo nameserver 10.0.0.254 >/etc/resolv.conf`,
		disturbances: []string{
			`echo nameserver 10.0.0.254 >/etc/resolv.conf`,
			`echo nameserver 10.0.0.254 >/etc/new; mv /etc/new /etc/resolv.conf`,
			`echo nameserver 10.0.0.254 >/etc/other; ln -sf other /etc/resolv.conf`,
		},
	},
	{
		name: "dhclient", packages: []string{"isc-dhcp-client"}, mode: "file", ours: true,
		prepare: `echo nameserver 10.0.0.254 >/etc/resolv.conf`,
		// A lease is renewed, with another domain.
		disturbances: []string{`reason=RENEW interface=eth0 old_ip_address=10.0.0.1 new_ip_address=10.0.0.1 new_subnet_mask=255.255.255.0 \
new_domain_name=example.org new_domain_name_servers=10.0.0.254 dhclient-script`},
	},
	{name: "systemd-resolved", packages: []string{"systemd-resolved"}, prepare: resolved + `resolvectl dns eth0 10.0.0.254`, mode: "resolved", disturbances: []string{
		`stop systemd-resolved
start /lib/systemd/systemd-resolved
until resolvectl dns eth0 10.0.0.254; do sleep 0.05; done`,
		`resolvectl revert nodetun0`,
		`resolvectl dns nodetun0 10.0.0.254`,
	}},
	{
		name: "resolvconf", packages: []string{"resolvconf"}, mode: "resolvconf", ours: true, prepare: `
mkdir -p /run/resolvconf/interface
ln -sf /run/resolvconf/resolv.conf /etc/resolv.conf
resolvconf --enable-updates
echo nameserver 10.0.0.254 | resolvconf -a eth0.inet`,
		disturbances: []string{
			`echo nameserver 10.0.0.9 | resolvconf -a eth1.inet; resolvconf -d eth1.inet`, `resolvconf -u`,
			`printf 'search example.org\nnameserver 10.0.0.254\n' | resolvconf -a eth0.inet`,
		},
	},
	{
		name: "openresolv", packages: []string{"openresolv"}, mode: "resolvconf", ours: true, prepare: `
mkdir -p /run/resolvconf
echo nameserver 10.0.0.254 | resolvconf -a eth0`,
		disturbances: []string{
			`echo nameserver 10.0.0.9 | resolvconf -a eth1; resolvconf -d eth1`, `resolvconf -u`,
			`printf 'search example.org\nnameserver 10.0.0.254\n' | resolvconf -a eth0`,
		},
	},
	{
		name: "NetworkManager", packages: []string{"network-manager"}, mode: "networkmanager", ours: true, prepare: bus + networkManager,
		disturbances: []string{
			`nmcli con mod lan ipv4.dns-search example.org; nmcli con up lan`, `nmcli con mod lan ipv4.dns-search ""; nmcli dev reapply eth0`, restartManager,
		},
	},
	{
		name: "NetworkManager by a link", packages: []string{"network-manager"}, mode: "networkmanager", ours: true,
		prepare: bus + networkManager + `ln -sf /run/NetworkManager/resolv.conf /etc/resolv.conf`,
		disturbances: []string{
			`nmcli con mod lan ipv4.dns-search example.org; nmcli con up lan`, restartManager,
		},
	},
	{
		name: "NetworkManager with systemd-resolved", packages: []string{"systemd-resolved", "network-manager"}, mode: "resolved",
		prepare:      resolved + networkManager,
		disturbances: []string{`nmcli con mod lan ipv4.dns-search example.org; nmcli con up lan`, restartManager},
	},
}

// Names on hosts of Debian with each program that has to do with them, as the real ones of
// Debian's packages: for programs of every kind, after whatever those programs do, and with
// the host's own names as before when nodetun has ended, was killed, or went. -v prints the
// row of docs/hosts.md.
func TestNetnsResolversOfDebian(t *testing.T) {
	t.Parallel()
	nstest.Require(t, "dig")
	musl := nstest.CompileLookup(t, "musl-gcc", "-static")
	for _, host := range dnsHosts {
		t.Run(host.name, func(t *testing.T) {
			t.Parallel()
			r := startRelay(t)
			a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
			r.plug(t, a, "10.0.0.1/24")
			r.plug(t, b, "10.0.0.2/24")
			dev := strings.Fields(a.NS.Run(t, "ip", "-o", "addr", "show", "to", "10.0.0.1"))[1]
			a.NS.Run(t, "ip", "link", "set", dev, "down")
			a.NS.Run(t, "ip", "link", "set", dev, "name", "eth0", "up")
			publicDNS(t, r.Host)
			a.Debian(t, host.packages...)
			hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
			b.Start(t, "--relay", "none")
			_, key := b.Sshd(t)
			run := func(script string) {
				t.Helper()
				a.NS.Run(t, "sh", "-ec", services+script)
			}
			run(host.prepare)
			before := a.NS.Run(t, "cat", "/etc/resolv.conf")

			a.Start(t, "--relay", "none", "--dns", "auto")
			bob, id := a.Status(t).Peers[0], b.ID(t)+".node.internal"
			if mode := a.Status(t).Self.DNS; mode != host.mode {
				t.Errorf("dns is %q, want %q", mode, host.mode)
			}
			public := func() error { return answers(a, "192.0.2.80", "getent", "ahostsv4", "www.example.com") }
			names := func() error {
				return errors.Join(
					answers(a, bob.IPv6, "getent", "ahosts", "bob.node.internal"),
					answers(a, bob.IPv4, "getent", "ahostsv4", id),
					answers(a, bob.IPv6, "dig", "+short", "+time=2", "+tries=1", "bob.node.internal", "AAAA"),
					answers(a, bob.IPv6, "env", lookupEnv+"=bob.node.internal", "NODETUN_TEST_BINARY=none", os.Args[0], "-test.run", "^TestHelperLookup$", "-test.v"),
					public(),
				)
			}
			if err := names(); err != nil {
				t.Fatal(err)
			}
			a.SSHWorks(t, key, "bob.node.internal", id)
			a.Nodetun(t, "doctor", "dns")
			t.Logf("musl: %s of 20 lookups", strings.TrimSpace(a.NS.Run(t, musl, "bob.node.internal")))

			for _, script := range host.disturbances {
				run(script)
				began := time.Now()
				hosttest.Eventually(t, 2*time.Second, "names after "+script, names)
				t.Logf("names after %v: %s", time.Since(began).Round(10*time.Millisecond), script)
			}
			during := a.NS.Run(t, "cat", "/etc/resolv.conf")
			if strings.Contains(during, "127.0.0.153") != host.ours {
				t.Errorf("resolv.conf while nodetun runs:\n%s", during)
			}
			a.Up.Signal(syscall.SIGKILL)
			a.Up.Wait(t, 10*time.Second)
			if err := public(); err != nil {
				t.Errorf("after kill -9: %v", err)
			}
			a.Nodetun(t, "down")
			after := a.NS.Run(t, "cat", "/etc/resolv.conf")
			if strings.Contains(after, "nodetun") || strings.Contains(after, "127.0.0.153") {
				t.Errorf("resolv.conf after down:\n%s\nbefore:\n%s", after, before)
			}
			if err := public(); err != nil {
				t.Errorf("after down: %v", err)
			}
		})
	}
}

// What `doctor` says of a host, and `doctor dns` of names whose way is broken.
func TestNetnsDoctor(t *testing.T) {
	t.Parallel()
	r, a := startRelay(t), hosttest.New(t, "a")
	r.plug(t, a, "10.0.0.1/24")
	a.Debian(t)
	a.NS.Run(t, "sh", "-c", "echo nameserver 192.0.2.1 >/etc/resolv.conf")
	says := func(want string, code int, args ...string) {
		t.Helper()
		out, got := a.Try(t, append([]string{"doctor"}, args...)...)
		if got != code || !strings.Contains(out, want) {
			t.Errorf("doctor %v: exit code %d, want %d, and %q in\n%s", args, got, code, want, out)
		}
	}
	says("sudo nodetun up", 1)
	says("not running", 3, "dns")
	a.Start(t, "--relay", r.url, "--dns", "auto")
	says("clock      within", 0)
	says("packets get through it", 0)
	says("ssh and other programs find", 0, "dns")

	a.NS.Run(t, "sed", "-i", "s/^hosts:.*/hosts: files/", "/etc/nsswitch.conf")
	says("add dns to the line hosts", 1, "dns")
	a.NS.Run(t, "sed", "-i", "s/^hosts:.*/hosts: files dns/", "/etc/nsswitch.conf")

	a.NS.Run(t, "nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }; add rule inet t i meta l4proto { tcp, udp } th dport 53 drop")
	says("nft list ruleset", 1, "dns")
	a.NS.Run(t, "nft", "delete table inet t")
	says("ssh and other programs find", 0, "dns")

	a.Stop(t)
	a.Start(t, "--relay", "none", "--dns", "none")
	says("have 192.0.2.1 ask 127.0.0.153:53", 1, "dns")
}

// answers returns an error unless a program on the host prints a text.
func answers(h *hosttest.Host, want string, argv ...string) error {
	out, err := h.NS.Try(argv...)
	if err != nil || !strings.Contains(out, want) {
		return fmt.Errorf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// lookupEnv makes this test binary look a name up as programs of Go without cgo do.
const lookupEnv = "NODETUN_TEST_LOOKUP"

// TestHelperLookup is no test by itself.
func TestHelperLookup(t *testing.T) {
	name := os.Getenv(lookupEnv)
	if name == "" {
		t.Skip("runs on hosts of TestNetnsResolversOfDebian")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(addrs)
}
