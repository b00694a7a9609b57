//go:build linux

package dnsmap_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/internal/nstest"
	"github.com/nodetun/nodetun/routing"
)

// startIn runs a server inside the namespace, on the address that the product
// uses.
func startIn(t *testing.T, ns *nstest.NS, change func(*dnsmap.Config)) (*dnsmap.Server, *routing.Table) {
	t.Helper()
	table := routing.NewTable(selfID, pool, nil)
	names := newNames(t)
	w := world{table: table}
	if _, err := table.Add(peerID); err != nil {
		t.Fatal(err)
	}
	if err := names.Add("nas", peerID); err != nil {
		t.Fatal(err)
	}
	cfg := dnsmap.Config{
		Listen: []string{"127.0.0.153:53", "[" + table.Self().V6.String() + "]:53"}, Names: names, Lookup: w.lookup, Reverse: table.Lookup,
		Prefixes: []netip.Prefix{routing.Prefix6(), pool},
		// The kernel would be asked outside the namespace, where the test's
		// handlers run.
		Local: func(a netip.Addr) bool { return a.IsLoopback() || a == table.Self().V6 },
	}
	if change != nil {
		change(&cfg)
	}
	server, err := dnsmap.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() { _, err = server.Listen() })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return server, table
}

// dig is an independent client.
func TestNetnsDig(t *testing.T) {
	nstest.Require(t, "dig")
	ns := nstest.New(t, "dig")
	_, table := startIn(t, ns, nil)
	nas, _ := table.Entry(peerID)
	dig := func(args ...string) string {
		return strings.TrimSpace(ns.Run(t, append([]string{"dig", "@127.0.0.153", "+time=2", "+tries=1"}, args...)...))
	}
	for _, tc := range []struct{ args, want string }{
		{"+short nas.node.internal AAAA", nas.V6.String()},
		{"+short +tcp nas.node.internal A", nas.V4.String()},
		{"+short " + otherID.String() + ".node.internal AAAA", routing.OverlayV6(otherID).String()},
		{"+short -x " + nas.V6.String(), "nas.node.internal."},
		{"+short -x " + nas.V4.String(), "nas.node.internal."},
		{"nas.node.internal MX", "status: NOERROR"},
		{"nas.node.internal MX", "SOA\tns.node.internal."},
		{"nobody.node.internal", "status: NXDOMAIN"},
		{"example.com", "status: REFUSED"},
		{"+noedns nas.node.internal", "flags: qr aa rd"},
		{"+ednsopt=65001:00 nas.node.internal", "status: NOERROR"},
		{"+edns=1 +noednsnegotiation nas.node.internal", "status: BADVERS"},
	} {
		if got := dig(strings.Fields(tc.args)...); !strings.Contains(got, tc.want) {
			t.Errorf("dig %s: want %q in\n%s", tc.args, tc.want, got)
		}
	}
}

// Where 127.0.0.153:53 is taken (a second daemon in one namespace), the
// overlay address serves.
func TestNetnsListensOnTheOverlayAddress(t *testing.T) {
	nstest.Require(t, "dig")
	ns := nstest.New(t, "taken")
	first, table := startIn(t, ns, nil)
	ns.Run(t, "ip", "addr", "add", table.Self().V6.String()+"/128", "dev", "lo", "nodad")
	second, _ := startIn(t, ns, nil)
	if first.Addr() == second.Addr() || second.Addr().Addr() != table.Self().V6 {
		t.Errorf("listening on %s and %s", first.Addr(), second.Addr())
	}
	if out := ns.Run(t, "dig", "@"+table.Self().V6.String(), "+short", "laptop.node.internal", "AAAA"); strings.TrimSpace(out) != table.Self().V6.String() {
		t.Errorf("dig: %s", out)
	}
}

// lan 10.77.0.2 ── veth ── 10.77.0.1 host, whose server listens on 10.77.0.1
//
// S20: a machine that can reach the server's address gets nothing, the host
// itself an answer.
func TestNetnsS20LanIsNotAnswered(t *testing.T) {
	nstest.Require(t, "dig")
	host, lan := nstest.New(t, "host"), nstest.New(t, "lan")
	nstest.Veth(t, host, "10.77.0.1/24", lan, "10.77.0.2/24")
	own := netip.MustParseAddr("10.77.0.1")
	startIn(t, host, func(c *dnsmap.Config) {
		c.Listen = []string{"10.77.0.1:53"}
		c.Local = func(a netip.Addr) bool { return a == own || a.IsLoopback() }
	})
	for _, flag := range []string{"+notcp", "+tcp"} {
		args := []string{"dig", "@10.77.0.1", flag, "+time=1", "+tries=1", "+short", "nas.node.internal", "AAAA"}
		if out, err := lan.Try(args...); err == nil {
			t.Errorf("the LAN got: %s", out)
		}
		if out := host.Run(t, args...); !strings.HasPrefix(out, "fd6e:6f64:6574:") {
			t.Errorf("the host got: %s", out)
		}
	}
}

// The bus of the host can be reached from a network namespace, but a link
// index means another link there: systemd-resolved outside is not told.
func TestNetnsResolvedOutsideIsLeftAlone(t *testing.T) {
	ns := nstest.New(t, "bus")
	bus := startBus(t)
	f := startResolved(t, bus, false)
	h, err := dnsmap.NewHost(resolvedConfig(bus))
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() { _, err = h.Apply(t.Context()) })
	if !errors.Is(err, dnsmap.ErrNoResolved) || f.changes() != 0 {
		t.Errorf("%v, %d changes", err, f.changes())
	}
}

// helperEnv makes this test binary apply mode file to /etc/resolv.conf of the
// environment it runs in; its value is a line that the file must hold, so that
// no other file is ever touched.
const helperEnv = "NODETUN_TEST_RESOLV_CONF_HOLDS"

// TestHelperFileMode is no test by itself.
func TestHelperFileMode(t *testing.T) {
	line := os.Getenv(helperEnv)
	if line == "" {
		t.Skip("runs in a namespace, started by TestNetnsFileModeOnABindMount")
	}
	content, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || !strings.Contains(string(content), line) {
		t.Fatalf("not the bind mount: %q, %v", content, err)
	}
	state := filepath.Join(t.TempDir(), "state.json")
	h, err := dnsmap.NewHost(dnsmap.HostConfig{Mode: dnsmap.ModeFile, Server: netip.MustParseAddrPort("127.0.0.153:53"), StatePath: state})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	during, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || !strings.Contains(string(during), "nameserver 127.0.0.153\n") || !strings.HasSuffix(string(during), string(content)) {
		t.Errorf("written: %q, %v", during, err)
	}
	if _, err := os.Stat(state); err != nil {
		t.Errorf("the original is not kept: %v", err)
	}
	if os.Getenv(helperEnv+"_CRASH") != "" {
		return
	}
	undo(t, h)
	if after, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(after) != string(content) {
		t.Errorf("restored: %q, %v", after, err)
	}
}

// `ip netns exec` mounts /etc/netns/<name>/resolv.conf over /etc/resolv.conf:
// rename gives EBUSY there, and the file of the host must not change.
func TestNetnsFileModeOnABindMount(t *testing.T) {
	ns := nstest.New(t, "file")
	dir := filepath.Join("/etc/netns", ns.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.Remove("/etc/netns") // if it is empty
	})
	outside, _ := os.ReadFile("/etc/resolv.conf")
	line := "# namespace " + ns.Name
	inside := filepath.Join(dir, "resolv.conf")
	content := line + "\nnameserver 192.0.2.1\n"
	if err := os.WriteFile(inside, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := ns.Try("env", helperEnv+"="+line, os.Args[0], "-test.run", "^TestHelperFileMode$"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, _ := os.ReadFile(inside); string(got) != content {
		t.Errorf("afterwards: %q", got)
	}
	if out, err := ns.Try("env", helperEnv+"="+line, helperEnv+"_CRASH=1", os.Args[0], "-test.run", "^TestHelperFileMode$"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, _ := os.ReadFile(inside); !strings.HasPrefix(string(got), "# nodetun begin") {
		t.Errorf("after the crash: %q", got)
	}
	if got, _ := os.ReadFile("/etc/resolv.conf"); string(got) != string(outside) {
		t.Errorf("the host's own file was changed: %q", got)
	}
	if list, _ := filepath.Glob("/etc/.resolv.conf.*"); len(list) > 0 {
		t.Errorf("left in /etc: %v", list)
	}
}

// A real C library asks the server that resolv.conf names.
func TestNetnsLibcResolves(t *testing.T) {
	nstest.Require(t, "getent")
	ns := nstest.New(t, "libc")
	dir := filepath.Join("/etc/netns", ns.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.Remove("/etc/netns")
	})
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.153\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, table := startIn(t, ns, nil)
	nas, _ := table.Entry(peerID)
	// Without an IPv6 address of its own a host is not asked for AAAA (AI_ADDRCONFIG).
	ns.Run(t, "ip", "addr", "add", table.Self().V6.String()+"/128", "dev", "lo", "nodad")
	if out := ns.Run(t, "getent", "ahostsv6", "NAS.node.internal"); !strings.Contains(out, nas.V6.String()) {
		t.Errorf("ahosts: %s", out)
	}
	if out := ns.Run(t, "getent", "hosts", nas.V6.String()); !strings.Contains(out, "nas.node.internal") {
		t.Errorf("reverse: %s", out)
	}
	if out, err := ns.Try("getent", "ahosts", "nobody.node.internal"); err == nil {
		t.Errorf("nobody: %s", out)
	}
}

// A full disk leaves resolv.conf as it was, and says so: written in place it would be cut
// short.
func TestNetnsFullDisk(t *testing.T) {
	nstest.RequireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	f := file{path: filepath.Join(dir, "resolv.conf"), state: filepath.Join(t.TempDir(), "state.json")}
	f.write(t, original)
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 12<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ { // what is left of it
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
			break
		}
	}
	h, err := dnsmap.NewHost(f.config())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if got := f.read(t); got != original {
		t.Errorf("resolv.conf is %q", got)
	}
	undo(t, h)
}
