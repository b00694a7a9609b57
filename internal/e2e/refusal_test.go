//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// S6: a node that is in nobody's list gets silence, and its user is told what
// that may mean and what the other side must run.
func TestNetnsStranger(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	a.Nodetun(t, "peer", "add", b.ID(t), "--name", "bob", "--addr", "10.0.0.2:41820")
	b.Start(t, "--relay", "none")
	b.NS.Nft(t, `table inet count {
  chain out {
    type filter hook output priority 0
    udp sport 41820 ip daddr 10.0.0.1 counter
  }
}
`)
	a.Start(t, "--relay", "none")
	hosttest.Eventually(t, 12*time.Second, "status explains the silence", func() error {
		s := a.Status(t)
		if !strings.Contains(s.Peers[0].LastError, "no answer: offline, or it has not added you") {
			return fmt.Errorf("last error: %q", s.Peers[0].LastError)
		}
		return nil
	})
	if out := a.Nodetun(t, "status"); !strings.Contains(out, "nodetun peer add "+a.ID(t)) {
		t.Errorf("status does not say what the other side must run:\n%s", out)
	}
	if out := b.NS.Run(t, "nft", "list", "table", "inet", "count"); !strings.Contains(out, "counter packets 0 ") {
		t.Errorf("b answered a stranger:\n%s", out)
	}
	if s := a.Status(t); s.Peers[0].State == "connected" {
		t.Errorf("connected: %+v", s.Peers[0])
	}
}

// A known peer whose rules were taken away is told so, at once.
func TestNetnsDenied(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "--relay", "none")
	a.AwaitPath(t, 5*time.Second, "direct")
	_, key := b.Sshd(t)
	b.IperfServer(t, "5201")
	shell := a.SSHSession(t, key, "bob.node.internal", 100*time.Millisecond)
	iperf := a.Spawn(t, "iperf3", "-c", "bob.node.internal", "-t", "60", "-i", "0.5", "--forceflush")
	hosttest.Eventually(t, 5*time.Second, "iperf3 runs", func() error {
		if !strings.Contains(iperf.Output(), "bits/sec") {
			return errors.New(iperf.Output())
		}
		return nil
	})
	began := time.Now()
	b.Nodetun(t, "deny", "alice")
	select {
	case <-shell.Ended:
	case <-time.After(nstest.Slack * time.Second):
		t.Error("the ssh session goes on")
	}
	iperf.Wait(t, time.Second)
	t.Logf("ssh and iperf3 ended %v after deny began", time.Since(began).Round(time.Millisecond))
	if out, err := a.NS.Try("ping", "-c1", "-W2", "bob.node.internal"); err == nil {
		t.Errorf("ping still passes:\n%s", out)
	}
	hosttest.Eventually(t, 5*time.Second, "status says refused", func() error {
		if p := a.Status(t).Peers[0]; p.State != "refused" || !strings.Contains(p.LastError, "denied") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

// S6, S11: a denied peer learns that it is denied, and nothing of where this host is. It is
// told so once a minute, and sees no other reason in between.
func TestNetnsDeniedLearnsNothing(t *testing.T) {
	t.Parallel()
	r := startRelay(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	hosttest.Befriend(t, a, "", b, "", "--relay", r.url)
	b.Nodetun(t, "deny", "alice")
	const quiet = "mdns = false\ndiscovery = \"none\"\n"
	a.Configure(t, quiet)
	b.Configure(t, quiet)
	b.NS.Nft(t, `table inet count {
  chain out {
    type filter hook output priority 0
    ip daddr 10.0.0.1 counter
  }
}
`)
	b.Start(t, "--relay", r.url)
	a.Start(t, "--relay", r.url)
	for range 5 {
		if out, err := a.NS.Try("ping", "-c", "2", "-i", "0.5", "-W", "1", "bob.node.internal"); err == nil {
			t.Errorf("ping passes:\n%s", out)
		}
		hosttest.Eventually(t, 5*time.Second, "status says refused", func() error {
			if p := a.Status(t).Peers[0]; p.State != "refused" || !strings.Contains(p.LastError, "denied") {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
	var why struct{ Candidates []struct{ Addr string } }
	if err := json.Unmarshal([]byte(a.Nodetun(t, "why", "bob", "--json")), &why); err != nil {
		t.Fatal(err)
	}
	if len(why.Candidates) > 0 {
		t.Errorf("the denied peer learnt of %+v", why.Candidates)
	}
	if out := b.NS.Run(t, "nft", "list", "table", "inet", "count"); !strings.Contains(out, "counter packets 0 ") {
		t.Errorf("packets went to the denied peer:\n%s", out)
	}
	began := time.Now()
	b.Nodetun(t, "allow", "alice", "icmp")
	hosttest.Eventually(t, time.Second, "allowed again", func() error {
		if out, err := a.NS.Try("ping", "-c", "1", "-W", "1", "bob.node.internal"); err != nil {
			return errors.New(out)
		}
		return nil
	})
	t.Logf("reached %v after allow", time.Since(began).Round(time.Millisecond))
	a.AwaitPath(t, 10*time.Second, "direct")
}

// S28: overlay addresses belong to the tunnel. A neighbour that routes ours to us, or speaks
// with a peer's, gets nothing, also after somebody emptied the packet filter; and nothing of
// it stays, not even after kill -9.
func TestNetnsWeakHost(t *testing.T) {
	t.Parallel()
	a, eve := hosttest.New(t, "a"), hosttest.New(t, "eve")
	_, dev := nstest.Veth(t, a.NS, "10.0.0.1/24", eve.NS, "10.0.0.2/24")
	before := a.NS.Run(t, "nft", "list", "ruleset")
	a.Start(t, "--relay", "none", "--discovery", "none", "--tun", "nt0")
	self := a.Status(t).Self
	const forged4, forged6 = "198.18.0.99", "fd6e:6f64:6574:1::99"
	for _, cidr := range []string{forged4 + "/32", forged6 + "/128", "2001:db8::2/64"} {
		eve.NS.Run(t, "ip", "addr", "add", cidr, "dev", dev)
	}
	theirs := strings.Fields(a.NS.Run(t, "ip", "-o", "addr", "show", "to", "10.0.0.1"))[1]
	a.NS.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", theirs, "nodad")
	eve.NS.Run(t, "ip", "route", "add", self.IPv4, "via", "10.0.0.1")
	eve.NS.Run(t, "ip", "route", "add", self.IPv6, "via", "2001:db8::1")
	// What waits for the neighbour's address to be found would come through after the filter
	// was taken away.
	hosttest.Eventually(t, 5*time.Second, "the neighbours know each other", func() error {
		if out, err := eve.NS.Try("ping", "-c1", "-W1", "2001:db8::1"); err != nil {
			return errors.New(out)
		}
		return nil
	})
	heard := make(chan string, 16)
	var udp net.PacketConn
	a.NS.Do(t, func() {
		var err error
		if udp, err = net.ListenPacket("udp", ":8088"); err != nil {
			t.Fatal(err)
		}
	})
	defer udp.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				close(heard)
				return
			}
			heard <- fmt.Sprintf("%s from %s", buf[:n], from)
		}
	}()
	send := func(from, to, text string) {
		eve.NS.Do(t, func() {
			conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).Dial("udp", net.JoinHostPort(to, "8088"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		})
	}
	attack := func() {
		t.Helper()
		for _, addr := range []string{self.IPv4, self.IPv6} {
			if out, err := eve.NS.Try("ping", "-c1", "-W1", addr); err == nil {
				t.Errorf("the neighbour reaches %s:\n%s", addr, out)
			}
		}
		send("10.0.0.2", self.IPv4, "to our IPv4")
		send("2001:db8::2", self.IPv6, "to our IPv6")
		send(forged4, "10.0.0.1", "forged IPv4")
		send(forged6, "2001:db8::1", "forged IPv6")
		send("10.0.0.2", "10.0.0.1", "plain")
		if got := <-heard; !strings.HasPrefix(got, "plain") { // it came last
			t.Errorf("a program of this host heard %q", got)
		}
	}
	attack()
	a.NS.Run(t, "nft", "flush", "ruleset")
	guarded := func() error {
		if out := a.NS.Run(t, "nft", "list", "ruleset"); strings.Count(out, " drop") != 4 {
			return errors.New(out)
		}
		return nil
	}
	hosttest.Eventually(t, 2*time.Second, "the packet filter is back", guarded)
	a.NS.Run(t, "nft", "flush", "chain", "inet", "nodetun_nt0", "guard")
	hosttest.Eventually(t, 2*time.Second, "the rules are back", guarded)
	attack()
	if out, err := a.NS.Try("ping", "-c1", "-W1", self.IPv6); err != nil {
		t.Errorf("this host does not reach itself:\n%s", out)
	}
	a.Up.Signal(syscall.SIGKILL)
	a.Up.Wait(t, 10*time.Second)
	a.Nodetun(t, "down")
	if after := a.NS.Run(t, "nft", "list", "ruleset"); after != before {
		t.Errorf("after kill -9 and down:\n%s", after)
	}
	a.Start(t, "--relay", "none", "--discovery", "none", "--tun", "nt0")
	a.Stop(t)
	if after := a.NS.Run(t, "nft", "list", "ruleset"); after != before {
		t.Errorf("after an orderly end:\n%s", after)
	}
}

// S22: what a relay puts into its certificate or its answers does not reach the terminal raw.
func TestNetnsHostileText(t *testing.T) {
	t.Parallel()
	const evil = "\x1b]52;c;ZXZpbA==\x07"
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{evil}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(addr string, wrap func(net.Listener) net.Listener) {
		var l net.Listener
		b.NS.Do(t, func() {
			if l, err = net.Listen("tcp", addr); err != nil {
				t.Fatal(err)
			}
		})
		l = wrap(l)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				buf := make([]byte, 4096)
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := c.Read(buf); err == nil {
					fmt.Fprintf(c, "HTTP/1.1 500 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", evil)
				}
				c.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
	}
	serve("10.0.0.2:443", func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}})
	})
	serve("10.0.0.2:80", func(l net.Listener) net.Listener { return l })
	a.Start(t, "--relay", "https://10.0.0.2", "--relay", "http://10.0.0.2")
	said := a.Nodetun(t, "netcheck") + a.Nodetun(t, "netcheck", "--json")
	says(t, a, "certificate", true) // which is where the text is
	said += a.Nodetun(t, "status") + a.Nodetun(t, "status", "--json") + a.Nodetun(t, "hosts") + a.Up.Output()
	if strings.ContainsAny(said, "\x1b\x07") {
		t.Errorf("an escape reached the terminal:\n%q", said)
	}
}

// A permission that ends is taken back at its time, from what runs too, and though nobody
// can read the file any more (S16).
func TestNetnsGrantEnds(t *testing.T) {
	t.Parallel()
	const lasts = 4 * time.Second
	a, b := pair(t, "--relay", "none")
	a.AwaitPath(t, 5*time.Second, "direct")
	_, key := b.Sshd(t)
	b.Nodetun(t, "deny", "alice")
	b.Nodetun(t, "allow", "alice", "icmp")
	began := time.Now()
	out := b.Nodetun(t, "allow", "alice", "ssh", "--until", lasts.String())
	if !strings.Contains(out, "alice may reach here: tcp/22 icmp") || !strings.Contains(out, "until 20") {
		t.Errorf("allow says %q", out)
	}
	if out := b.Nodetun(t, "check", "alice", "ssh"); !strings.Contains(out, "yes, by the rule tcp/22") || !strings.Contains(out, "until 20") {
		t.Errorf("check says %q", out)
	}
	shell := a.SSHSession(t, key, "bob.node.internal", 100*time.Millisecond)
	if err := os.WriteFile(filepath.Join(b.Dir, "state", "peers.toml"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-shell.Ended:
	case <-time.After(lasts + nstest.Slack*5*time.Second):
		t.Error("the ssh session goes on")
	}
	if took := time.Since(began); took < lasts-time.Second || took > lasts+nstest.Slack*time.Second {
		t.Errorf("it ended after %v", took)
	}
	if out, code := b.Try(t, "check", "alice", "ssh"); code != 6 {
		t.Errorf("check says %q, exit %d", out, code)
	}
	pings(t, a, "bob.node.internal")
}

// Another node answers at the address: never connected, and said so.
func TestNetnsWrongNodeID(t *testing.T) {
	t.Parallel()
	a, b, other := hosttest.New(t, "a"), hosttest.New(t, "b"), hosttest.New(t, "other")
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	a.Nodetun(t, "peer", "add", other.ID(t), "--name", "bob", "--addr", "10.0.0.2:41820")
	b.Nodetun(t, "peer", "add", a.ID(t), "--name", "alice", "--allow", "all")
	b.Start(t, "--relay", "none")
	a.Start(t, "--relay", "none")
	hosttest.Eventually(t, 10*time.Second, "status names the address", func() error {
		p := a.Status(t).Peers[0]
		if p.State == "connected" {
			t.Fatalf("connected to another node: %+v", p)
		}
		if !strings.Contains(p.LastError, "no node with this id answers at 10.0.0.2:41820") {
			return fmt.Errorf("last error: %q", p.LastError)
		}
		return nil
	})
}

// Without any network `up` is ready at once and says what is missing.
func TestNetnsNoNetwork(t *testing.T) {
	t.Parallel()
	a := hosttest.New(t, "a")
	began := time.Now()
	a.Start(t)
	if took := time.Since(began); took > nstest.Slack*2*time.Second {
		t.Errorf("ready after %v", took)
	}
	s := a.Status(t)
	if len(s.Health) == 0 {
		t.Error("status does not say what is missing")
	}
	for _, line := range s.Health {
		t.Logf("%s: %s (%s)", line.Level, line.Text, line.Fix)
	}
	a.Stop(t)
}

// The default rules let ssh and ping in and nothing else (S15).
func TestNetnsDefaultRules(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820")
	a.Start(t, "--relay", "none")
	b.Start(t, "--relay", "none")
	_, key := b.Sshd(t)
	b.IperfServer(t, "5201")
	a.AwaitPath(t, 5*time.Second, "direct")
	bob := a.Status(t).Peers[0]
	a.SSHWorks(t, key, "bob.node.internal")
	pings(t, a, bob.IPv6, bob.IPv4)
	began := time.Now()
	out, err := a.NS.Try("iperf3", "-c", bob.IPv6, "-t", "1", "--connect-timeout", "30000")
	if err == nil {
		t.Errorf("iperf3 passed:\n%s", out)
	}
	if took := time.Since(began); took > nstest.Slack*2*time.Second {
		t.Errorf("the refusal took %v", took)
	}
	hosttest.Eventually(t, 2*time.Second, "the log names the command that would allow it", func() error {
		if want := "nodetun allow " + a.ID(t) + " tcp/5201"; !strings.Contains(b.Up.Output(), want) {
			return errors.New(b.Up.Output())
		}
		return nil
	})
}

// Each start that cannot work says why in one line and leaves files alone.
func TestNetnsBrokenStarts(t *testing.T) {
	t.Parallel()
	a := hosttest.New(t, "a")
	a.ID(t)
	state := filepath.Join(a.Dir, "state")
	keyFile, peersFile := filepath.Join(state, "secret.key"), filepath.Join(state, "peers.toml")
	settingsFile := filepath.Join(a.Dir, "nodetun.toml")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}

	cases := []struct {
		name  string
		setup func(t *testing.T)
		want  string
	}{
		{"broken key", func(t *testing.T) { replace(t, keyFile, []byte("not a key\n"), 0o600) }, "secret.key"},
		{"key that others can read", func(t *testing.T) { replace(t, keyFile, key, 0o644) }, "secret.key"},
		{"broken peers", func(t *testing.T) { replace(t, peersFile, []byte("[[peer]\nid = 1\n"), 0o600) }, "peers.toml"},
		{"peers that others may write", func(t *testing.T) { replace(t, peersFile, nil, 0o666) }, "peers.toml: others can change it (try: chmod go-w "},
		{"peers of another user", func(t *testing.T) { give(t, peersFile) }, "peers.toml: it belongs to user "},
		{"key of another user", func(t *testing.T) { give(t, keyFile) }, "secret.key: it belongs to user "},
		{"settings that others may write", func(t *testing.T) { replace(t, settingsFile, nil, 0o664) }, "nodetun.toml: others can change it"},
		{"state directory of another user", func(t *testing.T) { give(t, state) }, "state: it belongs to user "},
		{"port in use", func(t *testing.T) {
			a.Spawn(t, "nc", "-u", "-l", "0.0.0.0", "41820")
			hosttest.Eventually(t, 5*time.Second, "nc listens", func() error {
				if a.NS.Run(t, "ss", "-Hlun", "sport", "=", ":41820") == "" {
					return errors.New("not yet")
				}
				return nil
			})
		}, "41820"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.setup(t)
			before := contents(t, state)
			out, code := a.Try(t, "up", "--relay", "none", "--dns", "none")
			if code != 1 || strings.Count(strings.TrimSpace(out), "\n") != 0 || !strings.Contains(out, tc.want) {
				t.Errorf("exit code %d, want 1 and one line with %q:\n%s", code, tc.want, out)
			}
			t.Log(strings.TrimSpace(out))
			for file, was := range before {
				if is := contents(t, state)[file]; is != was {
					t.Errorf("%s was changed from %q to %q", file, was, is)
				}
			}
		})
	}
}

// Without a TUN device, and without root, `up` says so and stops.
func TestNetnsCannotStart(t *testing.T) {
	t.Parallel()
	nstest.Require(t, "setpriv")
	a := hosttest.New(t, "a")
	a.ID(t)
	up := strings.Join(append([]string{hosttest.Program(), "up", "--relay", "none", "--dns", "none"}, a.Flags...), " ")
	before := hostState(t, a)
	for _, tc := range []struct{ name, command, want string }{
		// `ip netns exec` gives each command mounts of its own.
		{"no TUN", "mount -t tmpfs none /dev/net && exec " + up, "/dev/net/tun"},
		{"no root", "exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all " + hosttest.Program() + " up", "needs root or CAP_NET_ADMIN (try: sudo nodetun up)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := a.Spawn(t, "sh", "-c", tc.command)
			code := p.Wait(t, 10*time.Second)
			out := strings.TrimSpace(p.Output())
			if code != 1 || strings.Contains(out, "\n") || !strings.Contains(out, tc.want) {
				t.Errorf("exit code %d, want 1 and one line with %q:\n%s", code, tc.want, out)
			}
			t.Log(out)
		})
	}
	if after := hostState(t, a); after != before {
		t.Errorf("left behind:\n%s\nwant:\n%s", after, before)
	}
}

// give makes a file another user's for one test; one that is not there is made.
func give(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		replace(t, path, nil, 0o600)
	}
	const other = 65534
	if err := os.Chown(path, other, -1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chown(path, os.Geteuid(), -1) })
}

// S5: the secrets of connections go to the file that the hidden flag names, which is its
// owner's alone, and nowhere because of the environment.
func TestNetnsKeyLog(t *testing.T) {
	a, b := pairStopped(t)
	byEnvironment, byFlag, open := filepath.Join(a.Dir, "env"), filepath.Join(a.Dir, "flag"), filepath.Join(a.Dir, "open")
	if err := errors.Join(os.WriteFile(open, nil, 0o644), os.Chmod(open, 0o644)); err != nil {
		t.Fatal(err)
	}
	out, code := a.Try(t, "up", "--relay", "none", "--keylog", open)
	if code != 2 || !strings.Contains(out, "others can read the secrets") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if help := a.Nodetun(t, "up", "--help"); strings.Contains(help, "keylog") {
		t.Error("the flag is not hidden")
	}
	t.Setenv("SSLKEYLOGFILE", byEnvironment)
	a.Start(t, "--relay", "none", "--keylog", byFlag)
	b.Start(t, "--relay", "none")
	a.Nodetun(t, "ping", "bob", "-c", "1")
	secrets, err := os.ReadFile(byFlag)
	if err != nil || !strings.Contains(string(secrets), "CLIENT_TRAFFIC_SECRET_0 ") {
		t.Errorf("%q, %v", secrets, err)
	}
	if info, err := os.Stat(byFlag); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Stat(byEnvironment); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("secrets are written because of the environment: %v", err)
	}
}

// replace writes a file for one test and puts the old one back.
func replace(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	old, oldErr := os.ReadFile(path)
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(path)
		if oldErr == nil {
			os.WriteFile(path, old, 0o600)
		}
	})
}

// contents maps the names of a directory's files to what they hold.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		b, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[entry.Name()] = string(b)
	}
	return all
}

// A second daemon on one socket is refused; the first goes on.
func TestNetnsSecondDaemon(t *testing.T) {
	t.Parallel()
	a := hosttest.New(t, "a")
	a.Start(t, "--relay", "none")
	out, code := a.Try(t, "up", "--relay", "none", "--port", "0", "--tun", "nodetun9")
	if code != 1 || !strings.Contains(out, "already running") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	a.Status(t)
}
