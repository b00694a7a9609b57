//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// says waits until `status` of the host says a text, or, if not wanted, no more.
func says(t *testing.T, h *hosttest.Host, text string, wanted bool) {
	t.Helper()
	hosttest.Eventually(t, 10*time.Second, "status", func() error {
		if out := h.Nodetun(t, "status"); strings.Contains(out, text) != wanted {
			return errors.New(out)
		}
		return nil
	})
}

// A firewall or a rule that takes the packets of the tunnel is named in `status`.
func TestNetnsSelfCheck(t *testing.T) {
	t.Parallel()
	a := hosttest.New(t, "a")
	a.Configure(t, "ipv4_pool = \"100.100.0.0/16\"\n")
	a.Start(t, "--relay", "none", "--dns", "none", "--tun", "nt0")
	says(t, a, "does not work in the tunnel", false)
	logged := func(text string) {
		t.Helper()
		hosttest.Eventually(t, 15*time.Second, "log", func() error {
			if out := a.Up.Output(); !strings.Contains(out, text) {
				return errors.New(out)
			}
			return nil
		})
	}
	nft := func(rule string) {
		a.NS.Run(t, "nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }; "+
			"add chain inet t o { type filter hook output priority 0; }; add rule inet t "+rule)
	}
	nft(`i meta nfproto ipv4 iifname nt0 drop`) // nobody asks
	logged("IPv4 does not work in the tunnel")
	a.NS.Run(t, "nft", "delete table inet t")
	logged("IPv4 works in the tunnel again")
	for _, tc := range []struct{ rule, said string }{
		{
			`i ip saddr 100.64.0.0/10 iifname != "tailscale0" drop`,
			"IPv4 does not work in the tunnel: a firewall of this host drops what comes in by nt0 from 100.100.0.0/16, as Tailscale's rules do",
		},
		{
			`i meta nfproto ipv6 iifname nt0 drop`,
			"IPv6 does not work in the tunnel: a firewall of this host drops what comes in by nt0 from fd6e:6f64:6574::/48",
		},
		{
			`o ip daddr 100.100.0.0/16 drop`,
			"IPv4 does not work in the tunnel: a firewall of this host drops what goes out by nt0",
		},
	} {
		nft(tc.rule)
		says(t, a, tc.said, true)
		a.NS.Run(t, "nft", "delete table inet t")
		says(t, a, "does not work in the tunnel", false)
	}
	a.NS.Run(t, "ip", "link", "add", "other", "type", "bridge")
	a.NS.Run(t, "ip", "link", "set", "other", "up")
	a.NS.Run(t, "ip", "route", "add", "default", "dev", "other", "table", "77")
	a.NS.Run(t, "ip", "rule", "add", "to", "100.64.0.0/10", "table", "77", "pref", "10")
	says(t, a, "IPv4 does not work in the tunnel: packets for 100.100.0.0/16 leave by other instead of nt0", true)
	a.NS.Run(t, "ip", "rule", "del", "pref", "10")
	says(t, a, "does not work in the tunnel", false)
}

// The pool keeps away from the servers of this host; one that appears inside it later is
// named, and gone again with the next start.
func TestNetnsPoolAndServers(t *testing.T) {
	t.Parallel()
	a := hosttest.New(t, "a")
	conf := filepath.Join("/etc/netns", a.NS.Name, "resolv.conf")
	resolver := func(addr string) {
		if err := os.WriteFile(conf, []byte("nameserver "+addr+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	resolver("198.18.3.3")
	a.Start(t, "--relay", "none", "--dns", "none", "--tun", "nt0")
	if ip := a.Status(t).Self.IPv4; !strings.HasPrefix(ip, "10.214.") {
		t.Errorf("own address %s", ip)
	}
	resolver("10.214.3.3")
	says(t, a, "the DNS server 10.214.3.3 is not reached: it lies in 10.214.0.0/16", true)
	if out, code := a.Try(t, "peer", "add", a.ID(t)[:51]+"a", "--addr", "10.214.5.5:41820"); code == 0 {
		t.Errorf("a peer inside the pool was taken:\n%s", out)
	}
	a.Stop(t)
	a.Start(t, "--relay", "none", "--dns", "none", "--tun", "nt0")
	says(t, a, "is not reached", false)
	if ip := a.Status(t).Self.IPv4; !strings.HasPrefix(ip, "198.18.") {
		t.Errorf("own address after a restart %s", ip)
	}
}

// A link is judged by what it is: uplinks that are called like those of containers find
// each other, and a bridge of containers is left out.
func TestNetnsUplinkNames(t *testing.T) {
	t.Parallel()
	r := startRelay(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	for _, h := range []struct {
		*hosttest.Host
		cidr, name string
	}{{a, "10.0.0.1/24", "br-lan"}, {b, "10.0.0.2/24", "veth0"}} {
		r.plug(t, h.Host, h.cidr)
		dev := strings.Fields(h.NS.Run(t, "ip", "-o", "addr", "show", "to", h.cidr))[1]
		h.NS.Run(t, "ip", "link", "set", dev, "down")
		h.NS.Run(t, "ip", "link", "set", dev, "name", h.name, "up")
		h.NS.Run(t, "ip", "route", "add", "default", "via", "10.0.0.254")
	}
	a.NS.Run(t, "ip", "link", "add", "podman0", "type", "bridge")
	a.NS.Run(t, "ip", "addr", "add", "10.88.0.1/16", "dev", "podman0")
	a.NS.Run(t, "ip", "link", "set", "podman0", "up")
	a.NS.Run(t, "ip", "link", "add", "c0", "type", "veth", "peer", "name", "c1")
	a.NS.Run(t, "ip", "link", "set", "c0", "master", "podman0", "up")
	a.NS.Run(t, "ip", "link", "set", "c1", "up")
	hosttest.Befriend(t, a, "", b, "", "--allow", "all", "--relay", r.url)
	a.Start(t, "--relay", r.url)
	b.Start(t, "--relay", r.url)
	hosttest.Eventually(t, 20*time.Second, "a direct path", func() error {
		_, _ = a.Try(t, "ping", "bob", "-c", "1")
		return a.OnPath(t, "direct")
	})
	for _, addr := range a.Status(t).Self.DirectAddresses {
		if strings.HasPrefix(addr, "10.88.") {
			t.Errorf("the address of a bridge of containers is offered: %s", addr)
		}
	}
	if out := a.Nodetun(t, "netcheck"); !strings.Contains(out, "the addresses of podman0 are not used") {
		t.Errorf("netcheck does not name the link left out:\n%s", out)
	}
}

// The line to send to a friend holds no loopback address, and is printed anew when this
// machine gets other addresses.
func TestNetnsTicketFollowsAddresses(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	a.Start(t, "--relay", "none", "--dns", "none")
	hosttest.Eventually(t, 10*time.Second, "up is ready", func() error {
		if out := a.Up.Output(); !strings.Contains(out, "sudo nodetun peer add") {
			return errors.New(out)
		}
		return nil
	})
	if out := a.Nodetun(t, "ticket", "--json"); !strings.Contains(out, `"direct_addresses": []`) {
		t.Errorf("a ticket without a network: %s", out)
	}
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	hosttest.Eventually(t, 10*time.Second, "the line is printed anew", func() error {
		_, after, _ := strings.Cut(a.Up.Output(), "this machine has other addresses now")
		if !strings.Contains(after, strings.TrimSpace(a.Nodetun(t, "ticket"))) {
			return errors.New(a.Up.Output())
		}
		return nil
	})
	// The address comes a moment after the start.
	a.Stop(t)
	dev := strings.Fields(a.NS.Run(t, "ip", "-o", "addr", "show", "to", "10.0.0.1"))[1]
	a.NS.Run(t, "ip", "addr", "flush", "dev", dev)
	late := time.AfterFunc(500*time.Millisecond, func() { _, _ = a.NS.Try("ip", "addr", "add", "10.0.0.7/24", "dev", dev) })
	defer late.Stop()
	a.Start(t, "--relay", "none", "--dns", "none")
	hosttest.Eventually(t, 10*time.Second, "up is ready", func() error {
		if out := a.Up.Output(); !strings.Contains(out, "sudo nodetun peer add") {
			return errors.New(out)
		}
		return nil
	})
	if out := a.Up.Output(); strings.Contains(out, "no network address") {
		t.Errorf("up did not wait for the address:\n%s", out)
	}
}

// Answers leave from the address that was asked: a node is reached at a second address of
// its link by callers whose firewall lets nothing but answers in.
func TestNetnsFloatingAddress(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	ours, theirs := nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	a.NS.Run(t, "ip", "addr", "add", "2001:db8:1::9/64", "dev", ours, "nodad")
	b.NS.Run(t, "ip", "addr", "add", "10.0.0.100/32", "dev", theirs)
	addrs := []string{"2001:db8:1::2", "2001:db8:1::a:b:c"}
	for _, addr := range addrs {
		b.NS.Run(t, "ip", "addr", "add", addr+"/64", "dev", theirs, "nodad")
	}
	a.NS.Nft(t, `table inet f {
  chain i {
    type filter hook input priority 0; policy drop
    ct state established,related accept
    iifname { "lo", "nodetun0" } accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  }
}
`)
	b.Nodetun(t, "peer", "add", a.ID(t), "--name", "alice", "--allow", "all")
	b.Start(t, "--relay", "none")
	for _, at := range append(addrs, "10.0.0.100", "10.0.0.2") {
		if strings.Contains(at, ":") {
			at = "[" + at + "]"
		}
		a.Nodetun(t, "peer", "add", b.ID(t), "--name", "bob", "--addr", at+":41820")
		a.Start(t, "--relay", "none")
		hosttest.Eventually(t, 10*time.Second, "an answer from "+at, func() error {
			if out, code := a.Try(t, "ping", "bob", "-c", "1"); code != 0 {
				return errors.New(out)
			}
			return nil
		})
		a.Nodetun(t, "forget", "bob")
		a.Stop(t)
		if err := os.RemoveAll(filepath.Join(a.Dir, "state", "addresses.json")); err != nil {
			t.Fatal(err)
		}
	}
}

// Everything outside the tunnel carries the mark, so that rules of the host can tell it.
func TestNetnsMark(t *testing.T) {
	t.Parallel()
	r := startRelay(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
	a.NS.Nft(t, `table inet m {
  chain o {
    type filter hook output priority 0
    meta mark 0x6e udp sport 41820 counter comment "udp"
    meta mark 0x6e tcp dport 3340 counter comment "relay"
    oifname != { "lo", "nodetun0" } meta mark != 0x6e meta l4proto { tcp, udp } counter comment "other"
  }
}
`)
	a.Start(t, "--relay", r.url, "--dns", "none")
	b.Start(t, "--relay", r.url, "--dns", "none")
	a.AwaitPath(t, 10*time.Second, "direct")
	a.Nodetun(t, "netcheck")
	hosttest.Eventually(t, 10*time.Second, "marked packets", func() error {
		out := a.NS.Run(t, "nft", "list", "table", "inet", "m")
		for line := range strings.Lines(out) {
			none := strings.Contains(line, "packets 0 ")
			if strings.Contains(line, "comment") && none != strings.Contains(line, `"other"`) {
				return errors.New(out)
			}
		}
		return nil
	})
}

// vxlan joins two hosts by a tunnel between two of their addresses.
//
//	a vx0 10.50.0.1 ══ 10.50.0.2 vx0 b
func vxlan(t *testing.T, a *hosttest.Host, aAddr, bSeen string, b *hosttest.Host, bAddr, aSeen string) {
	t.Helper()
	for _, end := range []struct {
		h                 *hosttest.Host
		own, other, inner string
	}{{a, aAddr, bSeen, "10.50.0.1/24"}, {b, bAddr, aSeen, "10.50.0.2/24"}} {
		end.h.NS.Run(t, "ip", "link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789", "local", end.own, "remote", end.other)
		end.h.NS.Run(t, "ip", "addr", "add", end.inner, "dev", "vx0")
		end.h.NS.Run(t, "ip", "link", "set", "vx0", "mtu", "1300", "up")
	}
}

// wireguard joins two hosts by wireguard-go, 10.50.0.1 and 10.50.0.2.
func wireguard(t *testing.T, a *hosttest.Host, _, bSeen string, b *hosttest.Host, _, aSeen string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "wireguard-go")
	if out, err := exec.Command("go", "build", "-o", program, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	for i, end := range []struct {
		h     *hosttest.Host
		other string
	}{{a, bSeen}, {b, aSeen}} {
		link := fmt.Sprintf("wg%d%c", os.Getpid(), 'a'+i) // also the name of its socket, which all namespaces share
		end.h.Spawn(t, program, "-f", link)
		settings := fmt.Sprintf("set=1\nprivate_key=%x\nlisten_port=51820\npublic_key=%x\nendpoint=%s:51820\nallowed_ip=10.50.0.0/24\n\n",
			keys[i].Bytes(), keys[1-i].PublicKey().Bytes(), end.other)
		hosttest.Eventually(t, 10*time.Second, "wireguard-go", func() error { return setWireGuard(link, settings) })
		end.h.NS.Run(t, "ip", "addr", "add", fmt.Sprintf("10.50.0.%d/24", i+1), "dev", link)
		end.h.NS.Run(t, "ip", "link", "set", link, "mtu", "1200", "up")
	}
}

// setWireGuard sends settings to wireguard-go (wireguard.com/xplatform).
func setWireGuard(link, settings string) error {
	conn, err := net.Dial("unix", "/var/run/wireguard/"+link+".sock")
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, settings); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && answer != "errno=0\n" {
		err = errors.New(answer)
	}
	return err
}

// A tunnel that runs over ours is no path of ours, though it has addresses of its own.
func TestNetnsTunnelInside(t *testing.T) {
	t.Parallel()
	t.Run("vxlan", func(t *testing.T) { tunnelInside(t, vxlan) })
	t.Run("wireguard", func(t *testing.T) { tunnelInside(t, wireguard) })
}

// tunnelInside joins two nodes by the relay alone, and their overlay addresses by a tunnel
// within, which is not to become their path.
func tunnelInside(t *testing.T, inner func(t *testing.T, a *hosttest.Host, aAddr, bSeen string, b *hosttest.Host, bAddr, aSeen string)) {
	r := startRelay(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	for _, h := range []*hosttest.Host{a, b} {
		h.NS.Nft(t, "table ip f { chain o { type filter hook output priority 0; ip daddr { 10.0.0.1, 10.0.0.2 } udp dport 41820 drop; }; }")
	}
	hosttest.Befriend(t, a, "", b, "", "--allow", "all", "--relay", r.url)
	a.Start(t, "--relay", r.url)
	b.Start(t, "--relay", r.url)
	hosttest.Eventually(t, 10*time.Second, "the relay", func() error {
		_, _ = a.Try(t, "ping", "bob", "-c", "1")
		return a.OnPath(t, "relay")
	})
	as, bs := a.Status(t), b.Status(t)
	inner(t, a, as.Self.IPv4, as.Peers[0].IPv4, b, bs.Self.IPv4, bs.Peers[0].IPv4)
	hosttest.Eventually(t, 10*time.Second, "the inner tunnel", func() error {
		out, err := a.NS.Try("ping", "-c1", "-W1", "10.50.0.2")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
	// Longer than the gap between two looks for a direct path.
	out, err := a.NS.Try("ping", "-q", "-i", "0.1", "-c", "80", "-W", "2", as.Peers[0].IPv4)
	if err != nil || !strings.Contains(out, " 0% packet loss") {
		t.Errorf("%v\n%s", err, out)
	}
	if err := errors.Join(a.OnPath(t, "relay"), b.OnPath(t, "relay")); err != nil {
		t.Error(err)
	}
}

// Somebody else's tunnel is a path while there is no other, and is left for a plain one.
func TestNetnsSecondTunnel(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "--relay", "none")
	a.AwaitPath(t, 5*time.Second, "direct")
	vxlan(t, a, "10.0.0.1", "10.0.0.2", b, "10.0.0.2", "10.0.0.1")
	ping := a.Spawn(t, "ping", "-i", "0.2", a.Status(t).Peers[0].IPv6)
	by := func(endpoint string, within time.Duration) {
		t.Helper()
		hosttest.Eventually(t, within, "the path by "+endpoint, func() error {
			if p := a.Status(t).Peers[0]; !strings.HasPrefix(p.Endpoint, endpoint) {
				return fmt.Errorf("%s", p.Endpoint)
			}
			return nil
		})
	}
	for _, h := range []*hosttest.Host{a, b} {
		h.NS.Nft(t, "table ip f { chain o { type filter hook output priority 0; ip daddr { 10.0.0.1, 10.0.0.2 } udp dport 41820 drop; }; }")
	}
	a.Nodetun(t, "peer", "add", b.ID(t), "--addr", "10.50.0.2:41820")
	by("10.50.0.2", 20*time.Second)
	for _, h := range []*hosttest.Host{a, b} {
		h.NS.Run(t, "nft", "delete", "table", "ip", "f")
	}
	by("10.0.0.2", 30*time.Second)
	ping.Signal(syscall.SIGINT)
	ping.Wait(t, 5*time.Second)
}

// On a host without IPv6 names have IPv4 addresses only, and both soon after IPv6 is
// switched on.
func TestNetnsIPv6Off(t *testing.T) {
	t.Parallel()
	a, b := pairStopped(t)
	ipv6 := func(off string) {
		a.NS.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6="+off, "net.ipv6.conf.default.disable_ipv6="+off)
	}
	ipv6("1")
	a.Start(t, "--relay", "none")
	b.Start(t, "--relay", "none")
	a.AwaitPath(t, 5*time.Second, "direct")
	names := func() string { return a.NS.Run(t, "getent", "ahosts", "bob.node.internal") }
	if out := names(); strings.Contains(out, ":") || !strings.Contains(out, ".") {
		t.Errorf("without IPv6:\n%s", out)
	}
	pings(t, a, "bob.node.internal")
	for range 3 {
		ipv6("0")
		hosttest.Eventually(t, 2*time.Second, "IPv6 is back", func() error {
			out, err := a.NS.Try("ping", "-6", "-c1", "-W1", "bob.node.internal")
			if err != nil {
				return errors.New(out)
			}
			return nil
		})
		ipv6("1")
		says(t, a, "ipv6 is disabled", true)
	}
}

// A program whose packets are none of this node's, in a container that is not
// masqueraded, is told so at once.
func TestNetnsContainerBehind(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, "--relay", "none", "--tun", "nt0")
	c := nstest.New(t, "c")
	inner, _ := nstest.Veth(t, a.NS, "172.17.0.1/16", c, "172.17.0.2/16")
	a.NS.Run(t, "ip", "addr", "add", "fd17::1/64", "dev", inner, "nodad")
	dev := strings.Fields(c.Run(t, "ip", "-o", "addr", "show", "to", "172.17.0.2"))[1]
	c.Run(t, "ip", "addr", "add", "fd17::2/64", "dev", dev, "nodad")
	c.Run(t, "ip", "route", "add", "default", "via", "172.17.0.1")
	c.Run(t, "ip", "-6", "route", "add", "default", "via", "fd17::1")
	a.NS.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	a.AwaitPath(t, 5*time.Second, "direct")
	bob := a.Status(t).Peers[0]
	for _, addr := range []string{bob.IPv4, bob.IPv6} {
		out, err := c.Try("ping", "-c1", "-W5", addr)
		if err == nil || !strings.Contains(out, "filtered") && !strings.Contains(out, "prohibited") {
			t.Errorf("ping %s: %v\n%s", addr, err, out)
		}
	}
}

// A bare cable, without any address but the link-local ones that IPv6 makes, is enough.
func TestNetnsBareCable(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	ours, theirs := nstest.Veth(t, a.NS, "", b.NS, "")
	linkLocal := func(h *hosttest.Host, dev string) (addr string) {
		hosttest.Eventually(t, 10*time.Second, "a link-local address", func() error {
			f := strings.Fields(h.NS.Run(t, "ip", "-o", "-6", "addr", "show", "dev", dev, "scope", "link", "-tentative"))
			if len(f) < 4 {
				return errors.New("none yet")
			}
			addr, _, _ = strings.Cut(f[3], "/")
			return nil
		})
		return addr
	}
	far := linkLocal(b, theirs)
	linkLocal(a, ours)
	if out, code := a.Try(t, "peer", "add", b.ID(t), "--addr", "["+far+"]:41820"); code == 0 || !strings.Contains(out, "needs the link") {
		t.Errorf("without the link: %d\n%s", code, out)
	}
	a.Nodetun(t, "peer", "add", b.ID(t), "--name", "bob", "--addr", "["+far+"%"+ours+"]:41820")
	b.Nodetun(t, "peer", "add", a.ID(t), "--name", "alice")
	a.Start(t, "--relay", "none")
	b.Start(t, "--relay", "none")
	hosttest.Eventually(t, 10*time.Second, "an answer", func() error {
		if out, code := a.Try(t, "ping", "bob", "-c", "1"); code != 0 {
			return errors.New(out)
		}
		return nil
	})
	pings(t, a, "bob.node.internal")
	says(t, a, "no network address", false)
}

// A node that was killed takes nobody's names with it: the servers of the host are asked
// behind ours. While it runs its names are found whatever the options say.
func TestNetnsKilledKeepsNames(t *testing.T) {
	t.Parallel()
	r := startRelay(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
	publicDNS(t, r.Host)
	conf := filepath.Join("/etc/netns", a.NS.Name, "resolv.conf")
	const before = "options timeout:1 rotate\nnameserver 10.0.0.254\nnameserver 10.0.0.254\nnameserver 10.0.0.254"
	if err := os.WriteFile(conf, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	public := func() error {
		out, err := a.NS.Try("getent", "ahostsv4", "www.example.com")
		if err != nil || !strings.Contains(out, "192.0.2.80") {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	}
	hosttest.Eventually(t, 10*time.Second, "a public name without nodetun", public)
	a.Start(t, "--relay", "none")
	for range 12 {
		a.NS.Run(t, "getent", "ahosts", "bob.node.internal")
	}
	if err := public(); err != nil {
		t.Error(err)
	}
	a.Up.Signal(syscall.SIGKILL)
	a.Up.Wait(t, 10*time.Second)
	if err := public(); err != nil {
		t.Errorf("after kill -9: %v", err)
	}
	a.Nodetun(t, "down")
	if after, err := os.ReadFile(conf); err != nil || string(after) != before {
		t.Errorf("resolv.conf: %q, %v", after, err)
	}
}

// publicDNS answers 192.0.2.80 to every question by UDP but those for our zone, on
// 10.0.0.254 of the host.
func publicDNS(t *testing.T, h *hosttest.Host) {
	t.Helper()
	var conn net.PacketConn
	h.NS.Do(t, func() {
		var err error
		if conn, err = net.ListenPacket("udp", "10.0.0.254:53"); err != nil {
			t.Fatal(err)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12 + bytes.IndexByte(buf[12:n], 0) + 5 // of the question
			q := slices.Clone(buf[:end])
			copy(q[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
			switch {
			case bytes.Contains(q, []byte("internal")):
				q[3] |= 3 // NXDOMAIN
			case q[end-3] == 1: // A
				q[7] = 1
				q = append(q, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 80)
			}
			_, _ = conn.WriteTo(q, from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
}

// Another server has port 53: status names it and where it can ask this node, that would
// work at once, and names resolve soon after the port is free.
func TestNetnsPort53(t *testing.T) {
	t.Parallel()
	nstest.Require(t, "dig")
	a, b := pairStopped(t)
	hold := func() (port net.PacketConn) {
		a.NS.Do(t, func() {
			var err error
			if port, err = net.ListenPacket("udp", "[::]:53"); err != nil {
				t.Fatal(err)
			}
		})
		return port
	}
	names := func(within time.Duration) {
		t.Helper()
		hosttest.Eventually(t, within, "names resolve", func() error {
			out, err := a.NS.Try("getent", "ahosts", "bob.node.internal")
			if err != nil {
				return errors.New(out)
			}
			return nil
		})
	}
	port := hold()
	a.Start(t, "--relay", "none")
	b.Start(t, "--relay", "none")
	says(t, a, fmt.Sprintf("names do not resolve: port 53 is taken by e2e.test (process %d)", os.Getpid()), true)
	says(t, a, "127.0.0.153, port 53820", true)
	if out := a.NS.Run(t, "dig", "+short", "+time=2", "@127.0.0.153", "-p", "53820", "bob.node.internal", "A"); !strings.HasPrefix(out, "198.18.") {
		t.Errorf("at the port that status names: %q", out)
	}
	port.Close()
	names(15 * time.Second)
	says(t, a, "names do not resolve", false)
	a.Stop(t)

	// With SIGHUP nobody waits.
	port = hold()
	a.Start(t, "--relay", "none")
	port.Close()
	a.Up.Signal(syscall.SIGHUP)
	names(3 * time.Second)
}

// On a host whose resolv.conf nobody manages names resolve after `up` alone, and `up`
// says so.
func TestNetnsNamesByThemselves(t *testing.T) {
	t.Parallel()
	a, b := pairStopped(t)
	conf := filepath.Join("/etc/netns", a.NS.Name, "resolv.conf")
	up := a.Spawn(t, append([]string{hosttest.Program(), "up", "--relay", "none"}, a.Flags...)...)
	b.Start(t, "--relay", "none")
	bob := b.ID(t)
	hosttest.Eventually(t, 10*time.Second, "the name of a peer", func() error {
		out, err := a.NS.Try("getent", "ahosts", bob+".node.internal")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
	if out := up.Output(); !strings.Contains(out, "/etc/resolv.conf asks this node first") || !strings.Contains(out, "--dns none") {
		t.Errorf("up said:\n%s", out)
	}
	a.Nodetun(t, "down")
	up.Wait(t, 10*time.Second)
	if after, err := os.ReadFile(conf); err != nil || string(after) != "# empty\n" {
		t.Errorf("resolv.conf: %q, %v", after, err)
	}
}

// Whatever is removed by hand is back within two seconds: the link itself, its addresses,
// its routes.
func TestNetnsRemovedByHand(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, "--relay", "none", "--tun", "nt0")
	a.AwaitPath(t, 5*time.Second, "direct")
	bob := a.Status(t).Peers[0]
	for _, remove := range []string{
		"ip link del nt0", "ip link set nt0 down", "ip addr flush dev nt0", "ip -4 route flush dev nt0", "ip -6 route flush dev nt0",
	} {
		a.NS.Run(t, strings.Fields(remove)...)
		hosttest.Eventually(t, 2*time.Second, "pings after "+remove, func() error {
			for _, addr := range []string{bob.IPv4, bob.IPv6} {
				if out, err := a.NS.Try("ping", "-c1", "-W1", addr); err != nil {
					return errors.New(out)
				}
			}
			return nil
		})
	}
}

// What `status` and `netcheck` say of proxies: a hint when TCP is dead and none is known,
// which one is used and who named it, and one that cannot be used, which stops nothing.
func TestNetnsProxyWords(t *testing.T) {
	const hint = `if this network has a proxy, set proxy = "http://host:port" in nodetun.toml (sudo and systemd leave https_proxy out)`
	a := hosttest.New(t, "a")
	up := []string{"--relay", "http://127.0.0.1:9", "--dns", "none", "--tun", "nt0"}
	a.Start(t, up...)
	says(t, a, hint, true)
	a.Stop(t)

	t.Setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:3128")
	a.Start(t, up...)
	says(t, a, "relay http://127.0.0.1:9", true)
	says(t, a, hint, false)
	if out := a.Nodetun(t, "netcheck"); !strings.Contains(out, "relays are reached by the proxy http://me@127.0.0.1:3128, as HTTP_PROXY says") {
		t.Errorf("netcheck does not name the proxy:\n%s", out)
	}
	a.Stop(t)

	t.Setenv("HTTP_PROXY", "ftp://me:secret@127.0.0.1:21")
	a.Start(t, up...)
	says(t, a, "no proxy is used: HTTP_PROXY names a proxy of a kind that cannot be used: ftp", true)
	if out := a.Nodetun(t, "status"); strings.Contains(out, "secret") {
		t.Errorf("status shows a password:\n%s", out)
	}
}
