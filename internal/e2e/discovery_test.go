//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/discovery/dht"
	"github.com/nodetun/nodetun/discovery/dht/dhttest"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// discoveryURL is that of the discovery server of the public network.
const discoveryURL = "http://203.0.113.1:8080"

// startDiscovery runs a discovery server on the public network.
func startDiscovery(t *testing.T, n *hosttest.Internet, args ...string) *hosttest.Process {
	t.Helper()
	argv := append([]string{hosttest.Program(), "discovery", "--dev", "--addr", "203.0.113.1:8080", "--dns-addr", "203.0.113.1:5300"}, args...)
	p := n.Spawn(t, argv...)
	n.AwaitListener(t, "8080")
	return p
}

// publishes waits until the host says that it is made known.
func publishes(t *testing.T, h *hosttest.Host) {
	t.Helper()
	hosttest.Eventually(t, 10*time.Second, "made known", func() error {
		out := h.Nodetun(t, "status")
		if !strings.Contains(out, "made known at  "+discoveryURL+"/pkarr, ") || strings.Contains(out, "not yet") {
			return errors.New(out)
		}
		return nil
	})
}

// Two nodes behind NATs know each other's NodeID and nothing else, and the one that is
// called is at another relay than the first one of the caller: it is found by what it
// published. Then its address outside changes, then it moves to another relay.
func TestNetnsFoundByKey(t *testing.T) {
	t.Parallel()
	n := hosttest.NewInternet(t)
	n.StartRelay(t, 0)
	n.StartRelay(t, 1)
	server := startDiscovery(t, n)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	ra, rb := n.Router(t, hosttest.RouterConfig{Kind: hosttest.Easy}), n.Router(t, hosttest.RouterConfig{Kind: hosttest.Easy, LAN: 2})
	ra.Join(t, a)
	rb.Join(t, b)
	hosttest.Befriend(t, a, "", b, "", "--allow", "all")
	b.Start(t, "--relay", hosttest.RelayURL(1), "--discovery", discoveryURL)
	publishes(t, b)
	a.Start(t, "--relay", hosttest.RelayURL(0), "--relay", hosttest.RelayURL(1), "--discovery", discoveryURL)
	publishes(t, a)
	_, key := b.Sshd(t)
	began := time.Now()
	a.SSHWorks(t, key, b.ID(t)+".node.internal")
	if took := time.Since(began); took > 2*nstest.Slack*time.Second {
		t.Errorf("the first ssh took %v", took)
	}
	a.AwaitPath(t, 15*time.Second, "direct")

	// What the server has resolves with dig, as what others published does.
	out := n.NS.Run(t, "dig", "+short", "@203.0.113.1", "-p", "5300", "_iroh."+z32(t, b)+".", "TXT")
	if want := fmt.Sprintf("%q\n", "relay="+hosttest.RelayURL(1)); out != want {
		t.Errorf("dig says %q, want %q", out, want)
	}

	for _, h := range []*hosttest.Host{a, n.Host} { // beside a node that runs, and one that does not
		h.Configure(t, "discovery = \""+discoveryURL+"\"\n")
		out := h.Nodetun(t, "lookup", b.ID(t))
		if !strings.Contains(out, hosttest.RelayURL(1)+" ("+discoveryURL+"/pkarr)") || !strings.Contains(out, "off: ") {
			t.Errorf("lookup says:\n%s", out)
		}
		t.Logf("lookup:\n%s", out)
	}

	foundAgain := func(how string) {
		t.Helper()
		began := time.Now()
		hosttest.Eventually(t, 10*time.Second, "found again", func() error {
			if out, err := a.NS.Try("ping", "-c1", "-W1", "bob.node.internal"); err != nil {
				return errors.New(out)
			}
			return nil
		})
		took := time.Since(began)
		if took > 5*nstest.Slack*time.Second {
			t.Errorf("found after %v, %s", took, how)
		}
		t.Logf("found after %v, %s", took.Round(time.Millisecond), how)
	}
	// Its address changes under a connection, and then while nobody is connected.
	n.Renumber(t, rb)
	foundAgain("connected")
	b.Stop(t)
	n.Renumber(t, rb)
	b.Start(t, "--relay", hosttest.RelayURL(1), "--discovery", discoveryURL)
	foundAgain("started again")

	// Without the server all goes on, and status says what is missing.
	server.Signal(9)
	server.Wait(t, 5*time.Second)
	a.SSHWorks(t, key, "bob.node.internal")
}

// z32 is the name of a host's node in DNS.
func z32(t *testing.T, h *hosttest.Host) string {
	t.Helper()
	id, err := identity.ParseNodeID(h.ID(t))
	if err != nil {
		t.Fatal(err)
	}
	return id.Z32()
}

// Where a node is was published in full, and one without relay finds it.
func TestNetnsFoundByKeyWithoutRelay(t *testing.T) {
	t.Parallel()
	n := hosttest.NewInternet(t)
	startDiscovery(t, n)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	n.Join(t, a)
	n.Join(t, b)
	b.Configure(t, "publish = \"all\"\n")
	hosttest.Befriend(t, a, "", b, "", "--allow", "all")
	for _, h := range []*hosttest.Host{b, a} {
		h.Start(t, "--relay", "none", "--discovery", discoveryURL)
	}
	publishes(t, b)
	if out := a.Nodetun(t, "status"); strings.Contains(out, discoveryURL+"/pkarr, now") { // publish = "relay", of which it has none
		t.Errorf("it is made known where it is:\n%s", out)
	}
	hosttest.Eventually(t, 5*time.Second, "ping", func() error {
		if out, err := a.NS.Try("ping", "-c1", "-W1", "bob.node.internal"); err != nil {
			return errors.New(out)
		}
		return nil
	})
	if err := a.OnPath(t, "direct"); err != nil {
		t.Error(err)
	}
}

// Where a node is stands in the DHT, and nowhere else.
func TestNetnsFoundByDHT(t *testing.T) {
	t.Parallel()
	n := hosttest.NewInternet(t)
	var at []netip.AddrPort
	for i := range 30 {
		addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)})
		n.NS.Run(t, "ip", "addr", "add", addr.String()+"/24", "dev", "br0")
		at = append(at, netip.AddrPortFrom(addr, 6881))
	}
	n.NS.Do(t, func() { dhttest.Start(t, at...) })
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	for _, h := range []*hosttest.Host{a, b} {
		n.Join(t, h)
		h.Configure(t, "publish = \"all\"\ndht = true\nmdns = false\n")
		host, _, err := net.SplitHostPort(dht.Bootstrap[0])
		if err != nil {
			t.Fatal(err)
		}
		names := "127.0.0.1 localhost\n" + at[0].Addr().String() + " " + host + "\n"
		if err := os.WriteFile(filepath.Join("/etc/netns", h.NS.Name, "hosts"), []byte(names), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hosttest.Befriend(t, a, "", b, "", "--allow", "all")
	flags := []string{"--relay", "none", "--discovery", "none"}
	b.Start(t, flags...)
	hosttest.Eventually(t, 20*time.Second, "made known", func() error {
		if out := b.Nodetun(t, "status"); !regexp.MustCompile(`made known at  the Mainline DHT, (now|\d)`).MatchString(out) {
			return errors.New(out)
		}
		return nil
	})
	a.Start(t, flags...)
	hosttest.Eventually(t, 10*time.Second, "ping", func() error {
		if out, err := a.NS.Try("ping", "-c1", "-W1", "bob.node.internal"); err != nil {
			return errors.New(out)
		}
		return nil
	})
	if err := a.OnPath(t, "direct"); err != nil {
		t.Error(err)
	}
	out := a.Nodetun(t, "lookup", b.ID(t))
	if !regexp.MustCompile(`(?m)^dht .*203\.0\.113\.`).MatchString(out) {
		t.Errorf("lookup:\n%s", out)
	}
	t.Logf("lookup:\n%s\nhosts:\n%s", out, a.Nodetun(t, "hosts"))
	a.Stop(t)
	if out := a.Nodetun(t, "lookup", b.ID(t)); !regexp.MustCompile(`(?m)^dht .*203\.0\.113\.`).MatchString(out) {
		t.Errorf("lookup while it is down:\n%s", out)
	}
}

// A caller that has not added the other one, and was added by it: the name alone leads
// there, for ssh and ping and nothing else (S19).
func TestNetnsOnDemand(t *testing.T) {
	t.Parallel()
	n := hosttest.NewInternet(t)
	n.StartRelay(t, 0)
	startDiscovery(t, n)
	a, b, c := hosttest.New(t, "a"), hosttest.New(t, "b"), hosttest.New(t, "c")
	n.Router(t, hosttest.RouterConfig{Kind: hosttest.Easy}).Join(t, a)
	n.Router(t, hosttest.RouterConfig{Kind: hosttest.Easy, LAN: 2}).Join(t, b)
	b.Nodetun(t, "peer", "add", a.ID(t), "--allow", "all")
	for _, h := range []*hosttest.Host{a, b} {
		h.Start(t, "--relay", hosttest.RelayURL(0), "--discovery", discoveryURL)
		publishes(t, h)
	}
	_, key := b.Sshd(t)
	name := b.ID(t) + ".node.internal"
	began := time.Now()
	a.SSHWorks(t, key, name)
	if took := time.Since(began); took > 2*nstest.Slack*time.Second {
		t.Errorf("the first ssh took %v", took)
	}
	a.NS.Run(t, "ping", "-c1", "-W2", name)
	out, err := a.NS.Try("nc", "-w", "3", "-v", name, "80")
	if err == nil || strings.Contains(out, "timed out") {
		t.Errorf("TCP port 80: %v\n%s", err, out)
	}
	if out := a.Nodetun(t, "status"); !strings.Contains(out, "no peer") {
		t.Errorf("status does not say that it is no peer:\n%s", out)
	}
	// By IPv4 the host hears of it as well.
	if out, err := a.NS.Try("ping", "-c1", "-W2", "198.18.255.254"); err == nil || !strings.Contains(out, "Net Unreachable") {
		t.Errorf("an address that is nobody's: %v\n%s", err, out)
	}
	// One that nobody knows: an answer within one round, and the reason in status.
	lost := c.ID(t)
	began = time.Now()
	if out, err := a.NS.Try("ping", "-c1", "-W10", lost+".node.internal"); err == nil || !strings.Contains(out, "nreachable") {
		t.Errorf("a node that is not there: %v\n%s", err, out)
	}
	t.Logf("one that is not there: %v", time.Since(began).Round(time.Millisecond))
	if out := a.Nodetun(t, "status"); !strings.Contains(out, "no answer") {
		t.Errorf("status does not say why:\n%s", out)
	}
}

// Two nodes on one cable: no relay, no server, no address, and no way out.
func TestNetnsFoundOnLAN(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	nstest.Veth(t, a.NS, "192.168.7.1/24", b.NS, "192.168.7.2/24")
	hosttest.Befriend(t, a, "", b, "", "--allow", "all")
	flags := []string{"--relay", "none", "--discovery", "none"}
	ping := func(from *hosttest.Host, to string) {
		t.Helper()
		began := time.Now()
		hosttest.Eventually(t, 10*time.Second, "found", func() error {
			if out, err := from.NS.Try("ping", "-c1", "-W1", to); err != nil {
				return errors.New(out)
			}
			return nil
		})
		took := time.Since(began)
		if took > 2*nstest.Slack*time.Second {
			t.Errorf("%s found %s after %v", from.NS.Name, to, took)
		}
		t.Logf("found after %v", took.Round(time.Millisecond))
	}
	a.Start(t, flags...)
	b.Start(t, flags...)
	ping(a, "bob.node.internal")
	// A DNS server of this host may have the port at an address.
	a.NS.Do(t, func() {
		conn, err := net.ListenPacket("udp", "192.168.7.1:5353")
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	})
	if out := a.Nodetun(t, "lookup", "bob"); !strings.Contains(out, "192.168.7.2:41820") {
		t.Errorf("lookup:\n%s", out)
	}
	// Both come back elsewhere: what was saved is wrong on both sides.
	a.Stop(t)
	b.Stop(t)
	for h, addr := range map[*hosttest.Host]string{a: "192.168.7.101/24", b: "192.168.7.102/24"} {
		link := strings.Fields(h.NS.Run(t, "ip", "-br", "-4", "addr", "show", "scope", "global"))[0]
		link, _, _ = strings.Cut(link, "@")
		h.NS.Run(t, "ip", "addr", "flush", "dev", link, "scope", "global")
		h.NS.Run(t, "ip", "addr", "add", addr, "dev", link)
	}
	b.Start(t, flags...)
	a.Start(t, flags...)
	ping(b, "alice.node.internal")
	ping(a, "bob.node.internal")
	if err := a.OnPath(t, "direct"); err != nil {
		t.Error(err)
	}
	// Who leaves says so.
	b.Stop(t)
	if out := a.Nodetun(t, "lookup", b.ID(t)); !regexp.MustCompile(`(?m)^mdns .* nothing$`).MatchString(out) {
		t.Errorf("lookup after it left:\n%s", out)
	}
}

// The same where there is IPv6 only, on a link that comes up late.
func TestNetnsFoundOnLANByIPv6(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	hosttest.Befriend(t, a, "", b, "", "--allow", "all")
	flags := []string{"--relay", "none", "--discovery", "none"}
	a.Start(t, flags...)
	b.Start(t, flags...)
	nstest.Veth(t, a.NS, "fd07::1/64", b.NS, "fd07::2/64")
	hosttest.Eventually(t, 10*time.Second, "found", func() error {
		if out, err := a.NS.Try("ping", "-c1", "-W1", "bob.node.internal"); err != nil {
			return errors.New(out)
		}
		return nil
	})
	if out := a.Nodetun(t, "lookup", "bob"); !strings.Contains(out, "[fd07::2]:41820") {
		t.Errorf("lookup:\n%s", out)
	}
}

// A server that is killed while packets are put has every one that it acknowledged when it
// starts again.
func TestNetnsDiscoveryKilled(t *testing.T) {
	t.Parallel()
	const writers, rounds = 8, 3
	h := hosttest.New(t, "store")
	dir := t.TempDir()
	run := func() *hosttest.Process {
		p := h.Spawn(t, hosttest.Program(), "discovery", "--dev", "--addr", "127.0.0.1:8080", "--dns-addr", "none", "--store", dir)
		h.AwaitListener(t, "8080")
		return p
	}
	acknowledged := make(map[identity.NodeID]pkarr.Packet)
	inside := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		h.NS.Do(t, func() { conn, err = new(net.Dialer).DialContext(ctx, network, addr) })
		return conn, err
	}
	client := pkarr.Client{URL: "http://127.0.0.1:8080/pkarr", HTTP: &http.Client{Transport: &http.Transport{DialContext: inside, MaxIdleConnsPerHost: writers}}}
	defer client.HTTP.CloseIdleConnections()
	for round := range rounds {
		server := run()
		var mu sync.Mutex // guards acknowledged
		var tasks sync.WaitGroup
		enough := make(chan struct{}, 1)
		for range writers {
			tasks.Go(func() {
				for {
					key := identity.GenerateSecretKey()
					p, err := pkarr.NewSigner(key, 0, nil).Sign(time.Now(), identity.NodeAddr{ID: key.NodeID()})
					if err != nil {
						t.Error(err)
						return
					}
					if err := client.Put(t.Context(), p); err != nil {
						return // it was killed
					}
					mu.Lock()
					acknowledged[key.NodeID()] = p
					if len(acknowledged) == 400*(round+1) {
						enough <- struct{}{}
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		server.Signal(syscall.SIGKILL)
		server.Wait(t, 5*time.Second)
		tasks.Wait()
	}
	run()
	lost := 0
	for id, p := range acknowledged {
		got, err := client.Get(t.Context(), id)
		if err != nil || !bytes.Equal(got.Payload(), p.Payload()) {
			lost++
		}
	}
	t.Logf("%d acknowledged packets, killed %d times", len(acknowledged), rounds)
	if lost > 0 {
		t.Errorf("%d are lost", lost)
	}
}
