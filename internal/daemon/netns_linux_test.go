package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/nstest"
	"github.com/nodetun/nodetun/internal/rules"
)

// TestMain becomes a node when a test asks for it: a node that makes its
// interface anew has to live in its namespace with all its threads.
func TestMain(m *testing.M) {
	if text := os.Getenv(runEnv); text != "" {
		os.Exit(runNode(text))
	}
	os.Exit(m.Run())
}

// runEnv holds, in the process that is a node, its nodeConfig.
const runEnv = "NODETUN_TEST_NODE"

// nodeConfig is what a test says of a node.
type nodeConfig struct {
	StateDir, Socket string
	Peer             string // of this run, ID@ip:port
	TUN              string
	Port             int
}

func runNode(text string) int {
	var n nodeConfig
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		panic(err)
	}
	cfg := Config{Settings: config.Default(), StateDir: n.StateDir, Socket: n.Socket, Version: "test"}
	cfg.Settings.DNS, cfg.Settings.Relays = "none", []identity.RelayURL{}
	if n.TUN != "" {
		cfg.Settings.TUN, cfg.Settings.Port = n.TUN, uint16(n.Port)
	}
	if id, addr, ok := strings.Cut(n.Peer, "@"); ok {
		p := config.Peer{Addrs: []netip.AddrPort{netip.MustParseAddrPort(addr)}, Rules: rules.Default()}
		p.ID, _ = identity.ParseNodeID(id)
		cfg.Peers = []config.Peer{p}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := Run(ctx, cfg)
	signal.Ignore(os.Interrupt) // the test may still send one
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// running is a node in a namespace of its own.
type running struct {
	*localapi.Client
	ns   *nstest.NS
	cfg  nodeConfig
	cmd  *exec.Cmd
	out  bytes.Buffer
	once sync.Once
	err  error
}

// start runs a node in a namespace with one address, 10.0.0.1, and waits until
// it answers. It ends with the test.
func start(t *testing.T, change func(*nodeConfig)) *running {
	t.Helper()
	nstest.RequireRoot(t)
	ns, other := nstest.New(t, "daemon"), nstest.New(t, "other")
	nstest.Veth(t, ns, "10.0.0.1/24", other, "10.0.0.2/24")
	dir := t.TempDir()
	r := &running{ns: ns, cfg: nodeConfig{StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "run", "nodetun.sock")}}
	if change != nil {
		change(&r.cfg)
	}
	r.Client = localapi.NewClient(r.cfg.Socket)
	r.cmd = nodeCommand(t, ns, r.cfg)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.end(); err != nil {
			t.Errorf("the node: %v\n%s", err, r.out.String())
		}
	})
	eventually(t, 5*time.Second, "the node answers", func() error {
		_, err := r.Status(t.Context())
		return err
	})
	return r
}

// nodeCommand is a process that is a node in the namespace.
func nodeCommand(t *testing.T, ns *nstest.NS, cfg nodeConfig) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := ns.Cmd(context.Background(), self)
	cmd.Env = append(os.Environ(), runEnv+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// end ends the node and returns how it ended.
func (r *running) end() error {
	r.once.Do(func() {
		_ = r.cmd.Process.Signal(os.Interrupt) // it may have ended by itself
		r.err = r.cmd.Wait()
	})
	return r.err
}

// eventually waits for a condition, at most nstest.Slack times within.
func eventually(t *testing.T, within time.Duration, what string, condition func() error) {
	t.Helper()
	within *= nstest.Slack
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		<-tick.C
	}
}

// Somebody removes the interface: it is back within 2 s with its addresses.
func TestNetnsLinkComesBack(t *testing.T) {
	r := start(t, nil)
	before := r.ns.Run(t, "ip", "-br", "addr", "show", "dev", "nodetun0")
	routes := r.ns.Run(t, "ip", "-6", "route", "show", "dev", "nodetun0")
	for range 2 {
		r.ns.Run(t, "ip", "link", "del", "nodetun0")
		eventually(t, 2*time.Second, "the interface is back", func() error {
			after, err := r.ns.Try("ip", "-br", "addr", "show", "dev", "nodetun0")
			if err != nil || stripLinkLocal(after) != stripLinkLocal(before) {
				return fmt.Errorf("%q, want %q", after, before)
			}
			now, err := r.ns.Try("ip", "-6", "route", "show", "dev", "nodetun0")
			if err != nil || !strings.Contains(now, "fd6e:6f64:6574::/48") {
				return fmt.Errorf("routes %q, want %q", now, routes)
			}
			return nil
		})
	}
	if _, err := r.Status(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if out, err := r.ns.Try("ip", "link", "show", "nodetun0"); err == nil {
		t.Errorf("the interface stayed: %s", out)
	}
}

// stripLinkLocal takes out the random address that the kernel adds.
func stripLinkLocal(s string) string {
	var kept []string
	for _, field := range strings.Fields(s) {
		if !strings.HasPrefix(field, "fe80:") {
			kept = append(kept, field)
		}
	}
	return strings.Join(kept, " ")
}

// The socket goes last: whoever saw `down` return finds the host as it was.
func TestNetnsDownReturnsWhenUndone(t *testing.T) {
	r := start(t, nil)
	if err := r.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Gone(ctx); err != nil {
		t.Fatal(err)
	}
	defer r.once.Do(func() { r.err = r.cmd.Wait() }) // it ends by itself
	if out, err := r.ns.Try("ip", "link", "show", "nodetun0"); err == nil {
		t.Errorf("the interface is still there: %s", out)
	}
	if _, err := os.Stat(r.cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// Peers of this run have the default rules (S15) and are not written down until
// somebody changes them.
func TestNetnsPeersOfThisRun(t *testing.T) {
	id := newID()
	addr := netip.MustParseAddrPort("10.0.0.9:41820")
	r := start(t, func(c *nodeConfig) { c.Peer = id.String() + "@" + addr.String() })
	list, err := r.Peers(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != id || strings.Join(list[0].Rules, " ") != "tcp/22 icmp" {
		t.Fatalf("got %+v, %v", list, err)
	}
	file := config.NewPeers(r.cfg.StateDir)
	if saved, err := file.Load(); err != nil || len(saved) != 0 {
		t.Errorf("written down: %+v, %v", saved, err)
	}
	if entry, err := r.Deny(t.Context(), localapi.RulesRequest{Peer: id.String()}); err != nil || len(entry.Rules) != 0 {
		t.Errorf("deny: %+v, %v", entry, err)
	}
	if saved, err := file.Load(); err != nil || len(saved) != 1 || !saved[0].Rules.Empty() || saved[0].Addrs[0] != addr {
		t.Errorf("after deny: %+v, %v", saved, err)
	}
	if status, err := r.Status(t.Context()); err != nil || len(status.Peers) != 1 || status.Peers[0].State != "refused" {
		t.Errorf("status: %+v, %v", status.Peers, err)
	}
	if _, err := r.Forget(t.Context(), id.String()[:5]); err != nil {
		t.Error(err)
	}
	if list, err := r.Peers(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("after forget: %+v, %v", list, err)
	}
}

// SIGHUP reads peers.toml again: entries come, go, and swap their names. A
// broken file changes nothing.
func TestNetnsReload(t *testing.T) {
	r := start(t, nil)
	a, b := newID(), newID()
	path := config.NewPeers(r.cfg.StateDir).Path()
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, names map[identity.NodeID]string) {
		t.Helper()
		eventually(t, 3*time.Second, what, func() error {
			status, err := r.Status(t.Context())
			if err != nil || len(status.Peers) != len(names) {
				return fmt.Errorf("%+v, %w", status.Peers, err)
			}
			for _, p := range status.Peers {
				if p.FQDN != names[p.ID] {
					return fmt.Errorf("%s is %q, want %q", p.ID, p.FQDN, names[p.ID])
				}
			}
			return nil
		})
	}
	entry := func(id identity.NodeID, name string) string {
		return fmt.Sprintf("[[peer]]\nid = %q\nname = %q\n", id, name)
	}
	write(entry(a, "first") + entry(b, "second"))
	want("two peers", map[identity.NodeID]string{a: "first.node.internal", b: "second.node.internal"})
	write(entry(a, "second") + entry(b, "first"))
	want("names are swapped", map[identity.NodeID]string{a: "second.node.internal", b: "first.node.internal"})
	write(entry(a, "") + entry(b, "wpad"))
	want("one name is gone, one refused", map[identity.NodeID]string{a: a.String() + ".node.internal", b: b.String() + ".node.internal"})
	status, err := r.Status(t.Context())
	if err != nil || !strings.Contains(fmt.Sprint(status.Health), "wpad") {
		t.Errorf("status does not tell of the bad name: %+v, %v", status.Health, err)
	}
	write("[[peer]\n")
	if _, err := r.AddPeer(t.Context(), localapi.AddRequest{Peer: newID().String()}); err == nil || !strings.Contains(err.Error(), "peers.toml:1") {
		t.Errorf("a broken file: %v", err)
	}
	want("a broken file changes nothing", map[identity.NodeID]string{a: a.String() + ".node.internal", b: b.String() + ".node.internal"})
	write(entry(b, "second"))
	want("one peer is gone", map[identity.NodeID]string{b: "second.node.internal"})
}

// A second node on the same socket, or on the same state directory, is refused
// and takes nothing from the first.
func TestNetnsSecondNodeIsRefused(t *testing.T) {
	r := start(t, nil)
	for name, change := range map[string]func(*nodeConfig){
		"same socket":          func(c *nodeConfig) { c.StateDir = filepath.Join(t.TempDir(), "state") },
		"same state directory": func(c *nodeConfig) { c.Socket = filepath.Join(t.TempDir(), "other.sock") },
	} {
		second := r.cfg
		second.Port, second.TUN = 0, "nodetun9"
		change(&second)
		out, err := nodeCommand(t, r.ns, second).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "already running") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if _, err := r.Status(t.Context()); err != nil {
			t.Errorf("%s: the first node: %v", name, err)
		}
	}
}

// The IPv4 numbers of a run, and where a peer is, are there at the next start.
func TestNetnsAddressesAreKept(t *testing.T) {
	r := start(t, nil)
	id := newID()
	added, err := r.AddPeer(t.Context(), localapi.AddRequest{Peer: id.String(), Name: "nas"})
	if err != nil || added.Peer.IPv4 == nil {
		t.Fatalf("got %+v, %v", added, err)
	}
	self, err := r.Self(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	beside := &Offline{StateDir: r.cfg.StateDir, Settings: config.Default()}
	after, err := beside.Self(t.Context())
	if err != nil || after.IPv4 == nil || *after.IPv4 != *self.IPv4 || after.FQDN != self.FQDN {
		t.Errorf("self %+v, %v, want %+v", after, err, self)
	}
	list, err := beside.Peers(t.Context())
	if err != nil || len(list) != 1 || list[0].IPv4 == nil || *list[0].IPv4 != *added.Peer.IPv4 {
		t.Errorf("peers %+v, %v, want %+v", list, err, added.Peer)
	}
	ticket, err := beside.Ticket(t.Context())
	if err != nil || len(ticket.DirectAddresses) == 0 || !strings.HasPrefix(ticket.DirectAddresses[0], "10.0.0.1:") {
		t.Errorf("ticket %+v, %v", ticket, err)
	}
}

// An entry of peers.toml that is not in force can be forgotten, as status
// advises.
func TestNetnsForgetWhatIsNotInForce(t *testing.T) {
	r := start(t, nil)
	status, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf("[[peer]]\nid = %q\n", status.Self.ID)
	if err := os.WriteFile(config.NewPeers(r.cfg.StateDir).Path(), []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err = r.Status(t.Context()); err != nil || !strings.Contains(fmt.Sprint(status.Health), "this node itself") {
		t.Fatalf("%+v, %v", status.Health, err)
	}
	if _, err := r.Forget(t.Context(), status.Self.ID.String()); err != nil {
		t.Fatal(err)
	}
	if status, err = r.Status(t.Context()); err != nil || strings.Contains(fmt.Sprint(status.Health), "this node itself") {
		t.Errorf("%+v, %v", status.Health, err)
	}
}
