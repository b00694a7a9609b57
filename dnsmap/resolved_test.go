//go:build linux

package dnsmap_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/routing"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// startBus runs a private message bus and returns its address.
func startBus(t *testing.T) string {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip(`needs the program "dbus-daemon" (Debian: apt-get install dbus)`)
	}
	dir, err := os.MkdirTemp("", "bus") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, filepath.Join(dir, "bus")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--print-address", "--nofork")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("dbus-daemon: %v", err)
	}
	return strings.TrimSpace(address)
}

type (
	address struct {
		Family int32
		IP     []byte
	}
	addressEx struct {
		Family int32
		IP     []byte
		Port   uint16
		Name   string
	}
	domain struct {
		Name    string
		Routing bool
	}
)

// linkState is what systemd-resolved knows of one link.
type linkState struct {
	dns       []address
	port      uint16
	domains   []domain
	settings  map[string]string
	isDefault *bool
}

// fakeResolved behaves as the Manager and Link objects of systemd-resolved do.
// With old, it lacks what came after version 239.
type fakeResolved struct {
	old  bool
	conn *dbus.Conn // tells of changes, as systemd-resolved does

	mu    sync.Mutex
	links map[int32]*linkState
	calls int // that change something
}

func startResolved(t *testing.T, bus string, old bool) *fakeResolved {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	patience := time.AfterFunc(time.Minute, cancel)
	conn, err := dbus.Connect(bus, dbus.WithContext(ctx))
	if !patience.Stop() || err != nil {
		t.Fatalf("the private bus does not answer: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &fakeResolved{old: old, conn: conn, links: make(map[int32]*linkState)}
	methods := map[string]any{
		"SetLinkDNS": f.setDNS, "SetLinkDNSEx": f.setDNSEx, "SetLinkDomains": f.setDomains, "RevertLink": f.revert, "GetLink": f.getLink,
		"SetLinkDNSSEC": f.setting("dnssec"), "SetLinkLLMNR": f.setting("llmnr"), "SetLinkMulticastDNS": f.setting("mdns"),
	}
	if !old {
		methods["SetLinkDefaultRoute"] = f.setDefault
		methods["SetLinkDNSOverTLS"] = f.setting("dot")
		methods["FlushCaches"] = func() *dbus.Error { return nil }
	}
	if err := conn.ExportMethodTable(methods, "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager"); err != nil {
		t.Fatal(err)
	}
	get := map[string]any{"Get": f.get}
	if err := conn.ExportSubtreeMethodTable(get, "/org/freedesktop/resolve1/link", "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if r, err := conn.RequestName("org.freedesktop.resolve1", dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("name: %v %v", r, err)
	}
	return f
}

func (f *fakeResolved) change(index int32, set func(*linkState)) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := net.InterfaceByIndex(int(index)); err != nil {
		return dbus.NewError("org.freedesktop.resolve1.NoSuchLink", nil)
	}
	f.calls++
	defer f.tell()
	if f.links[index] == nil {
		f.links[index] = &linkState{settings: make(map[string]string)}
	}
	set(f.links[index])
	return nil
}

func (f *fakeResolved) setDNS(index int32, list []address) *dbus.Error {
	return f.change(index, func(l *linkState) { l.dns, l.port = list, 53 })
}

func (f *fakeResolved) setDNSEx(index int32, list []addressEx) *dbus.Error {
	return f.change(index, func(l *linkState) {
		l.dns = nil
		for _, a := range list {
			l.dns, l.port = append(l.dns, address{a.Family, a.IP}), a.Port
		}
	})
}

func (f *fakeResolved) setDomains(index int32, list []domain) *dbus.Error {
	return f.change(index, func(l *linkState) { l.domains = list })
}

func (f *fakeResolved) setDefault(index int32, on bool) *dbus.Error {
	return f.change(index, func(l *linkState) { l.isDefault = &on })
}

func (f *fakeResolved) setting(name string) func(int32, string) *dbus.Error {
	return func(index int32, value string) *dbus.Error {
		return f.change(index, func(l *linkState) { l.settings[name] = value })
	}
}

func (f *fakeResolved) revert(index int32) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, index)
	f.tell()
	return nil
}

// tell says that servers and domains may have changed.
func (f *fakeResolved) tell() {
	_ = f.conn.Emit("/org/freedesktop/resolve1", "org.freedesktop.DBus.Properties.PropertiesChanged",
		"org.freedesktop.resolve1.Manager", map[string]dbus.Variant{}, []string{"DNS", "Domains"})
}

func (f *fakeResolved) getLink(index int32) (dbus.ObjectPath, *dbus.Error) {
	return dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/resolve1/link/_3%d", index)), nil
}

func (f *fakeResolved) get(m dbus.Message, _, name string) (dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var index int32
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	fmt.Sscanf(string(path), "/org/freedesktop/resolve1/link/_3%d", &index)
	l := f.links[index]
	if l == nil {
		l = &linkState{dns: []address{}, domains: []domain{}}
	}
	switch name {
	case "DNS":
		return dbus.MakeVariant(l.dns), nil
	case "Domains":
		return dbus.MakeVariant(l.domains), nil
	}
	return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
}

// link returns a copy of what is known of the loopback link, nil when nothing.
func (f *fakeResolved) link(t *testing.T) *linkState {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[int32(lo.Index)]
	if l == nil {
		return nil
	}
	c := *l
	return &c
}

func (f *fakeResolved) changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func resolvedConfig(bus string) dnsmap.HostConfig {
	return dnsmap.HostConfig{
		Mode: dnsmap.ModeResolved, Link: "lo", Bus: bus,
		Server:     netip.MustParseAddrPort("127.0.0.153:53"),
		Prefixes:   []netip.Prefix{routing.Prefix6(), pool},
		ResolvConf: "/nonexistent/resolv.conf",
	}
}

func applied(t *testing.T, cfg dnsmap.HostConfig) *dnsmap.HostDNS {
	t.Helper()
	h, err := dnsmap.NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	report, err := h.Apply(t.Context())
	if err != nil || report != (dnsmap.Report{Mode: dnsmap.ModeResolved}) {
		t.Fatalf("%+v, %v", report, err)
	}
	return h
}

func TestResolved(t *testing.T) {
	bus := startBus(t)
	f := startResolved(t, bus, false)
	h := applied(t, resolvedConfig(bus))
	l := f.link(t)
	if len(l.dns) != 1 || l.dns[0].Family != 2 || !slices.Equal(l.dns[0].IP, []byte{127, 0, 0, 153}) || l.port != 53 {
		t.Errorf("servers %v port %d", l.dns, l.port)
	}
	want := []domain{{"node.internal", true}, {"4.7.5.6.4.6.f.6.e.6.d.f.ip6.arpa", true}, {"100.100.in-addr.arpa", true}}
	if !slices.Equal(l.domains, want) {
		t.Errorf("domains %v", l.domains)
	}
	if l.isDefault == nil || *l.isDefault {
		t.Error("the link is a default route for names")
	}
	if l.settings["dnssec"] != "no" || l.settings["dot"] != "no" {
		t.Errorf("settings %v", l.settings)
	}
	undo(t, h)
	if f.link(t) != nil {
		t.Error("not reverted")
	}
	undo(t, h)
}

func TestResolvedVariants(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old=%v", old), func(t *testing.T) {
			bus := startBus(t)
			f := startResolved(t, bus, old)
			cfg := resolvedConfig(bus)
			cfg.Server = netip.MustParseAddrPort("[fd6e:6f64:6574::1]:5300")
			cfg.Search = true
			cfg.Zone = "Mesh.Example"
			h := applied(t, cfg)
			l := f.link(t)
			if l.port != 5300 || l.dns[0].Family != 10 || l.domains[0] != (domain{"mesh.example", false}) {
				t.Errorf("%+v", l)
			}
			undo(t, h)
		})
	}
}

// Whatever is taken away, or lost with a restart of systemd-resolved, is back
// within 2 s; and what is there is not set again and again.
func TestResolvedIsKept(t *testing.T) {
	bus := startBus(t)
	f := startResolved(t, bus, false)
	h := applied(t, resolvedConfig(bus))
	calls := f.changes()
	keep(t, h)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	f.revert(int32(lo.Index))
	until(t, 2*time.Second, "back after a revert", func() bool { l := f.link(t); return l != nil && len(l.domains) == 3 && l.isDefault != nil })
	until(t, 2*time.Second, "set", func() bool { return f.changes() == 2*calls })
	f.setDomains(int32(lo.Index), []domain{{"example.org", false}})
	until(t, 2*time.Second, "domains", func() bool { return len(f.link(t).domains) == 3 })
}

func TestResolvedMissing(t *testing.T) {
	bus := startBus(t)
	for name, cfg := range map[string]dnsmap.HostConfig{"no service": resolvedConfig(bus), "no bus": resolvedConfig("unix:path=/nonexistent/bus")} {
		h, err := dnsmap.NewHost(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Apply(t.Context()); !errors.Is(err, dnsmap.ErrNoResolved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	startResolved(t, bus, false)
	cfg := resolvedConfig(bus)
	cfg.Link = "nosuchlink0"
	h, err := dnsmap.NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "nosuchlink0") {
		t.Errorf("no link: %v", err)
	}
}

// A bus that accepts and says nothing holds nobody longer than his context.
func TestResolvedMuteBus(t *testing.T) {
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := dnsmap.NewHost(resolvedConfig("unix:path=" + filepath.Join(dir, "bus")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Apply(ctx); !errors.Is(err, dnsmap.ErrNoResolved) {
		t.Error(err)
	}
}

func TestAuto(t *testing.T) {
	const stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n"
	for _, tc := range []struct {
		name, resolvConf string
		running          bool
		want             dnsmap.Mode
	}{
		{"stub and service", stub, true, dnsmap.ModeResolved},
		{"service, but resolv.conf asks others", original, true, dnsmap.ModeFile},
		{"a file that NetworkManager wrote", "# Generated by NetworkManager\n" + original, true, dnsmap.ModeNetworkManager},
		{"a file that resolvconf wrote", "# Dynamic resolv.conf(5) file for glibc resolver(3) generated by resolvconf(8)\n" + original, false, dnsmap.ModeResolvconf},
		{"stub without service", stub, false, dnsmap.ModeNone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bus := startBus(t)
			if tc.running {
				startResolved(t, bus, false)
			}
			f := newFile(t, tc.resolvConf)
			cfg := resolvedConfig(bus)
			cfg.Mode, cfg.ResolvConf = "", f.path
			h, err := dnsmap.NewHost(cfg)
			if err != nil {
				t.Fatal(err)
			}
			report, err := h.Apply(t.Context())
			if err != nil || report.Mode != tc.want || (report.Advice == "") != (tc.want != dnsmap.ModeNone) {
				t.Errorf("%+v, %v", report, err)
			}
			if changed := f.read(t) != tc.resolvConf; changed != (tc.want != dnsmap.ModeNone && tc.want != dnsmap.ModeResolved) {
				t.Errorf("resolv.conf was changed: %v", changed)
			}
			undo(t, h)
			if f.read(t) != tc.resolvConf {
				t.Error("resolv.conf did not come back")
			}
		})
	}
}
