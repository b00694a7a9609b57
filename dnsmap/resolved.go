package dnsmap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// The interface of systemd-resolved: org.freedesktop.resolve1(5).
const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = resolvedName + ".Manager."
	resolvedLink    = resolvedName + ".Link"
	busDaemon       = "org.freedesktop.DBus."

	// busTimeout is the patience with the bus for one round of calls.
	busTimeout = 5 * time.Second

	errUnknownMethod = "org.freedesktop.DBus.Error.UnknownMethod"
)

// resolved is mode resolved: DNS server and routing domains of our link. They
// vanish with the link, so nothing has to be kept for after a crash.
type resolved struct {
	cfg     HostConfig
	conn    *dbus.Conn    // nil when not connected
	cancel  func()        // frees what belongs to conn
	ifindex int32         // of the link we set up; 0 before
	changed chan struct{} // holds one; nil when nothing tells
}

// linkDomain is a domain of a link: (sb) on the bus. A routing domain decides
// who is asked, and is not searched.
type linkDomain struct {
	Domain  string
	Routing bool
}

// linkAddress is a DNS server of a link: (iay) on the bus.
type linkAddress struct {
	Family  int32
	Address []byte
}

// linkAddressEx is the same with port and TLS name: (iayqs).
type linkAddressEx struct {
	Family  int32
	Address []byte
	Port    uint16
	Name    string
}

func newResolved(cfg HostConfig) *resolved { return &resolved{cfg: cfg} }

func (r *resolved) servers() []string { return nil }

func (r *resolved) listen() <-chan struct{} {
	if r.conn == nil {
		return nil
	}
	return r.changed
}

func (r *resolved) deafen() {} // that ends with the connection

// subscribe has the bus tell when systemd-resolved comes or goes and when the servers or
// domains of a link change. Without it changed is nil.
func (r *resolved) subscribe(ctx context.Context) {
	r.changed = nil
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, resolvedName)},
		{dbus.WithMatchSender(resolvedName), dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchObjectPath(resolvedPath)},
	} {
		if err := r.conn.AddMatchSignalContext(ctx, match...); err != nil {
			r.cfg.Logger.Debug("systemd-resolved tells of no changes", "err", err)
			return
		}
	}
	signals, changed := make(chan *dbus.Signal, 16), make(chan struct{}, 1)
	r.conn.Signal(signals)
	r.changed = changed
	go func() { // until the connection ends, which closes signals and is a change too
		for open := true; open; {
			_, open = <-signals
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
}

// apply tells systemd-resolved what it does not know yet.
func (r *resolved) apply(ctx context.Context) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	if err := r.connect(ctx); err != nil {
		return false, err
	}
	if err := r.running(ctx); err != nil {
		r.disconnect() // a new bus, perhaps, the next time
		return false, err
	}
	link, err := net.InterfaceByName(r.cfg.Link)
	if err != nil {
		return false, fmt.Errorf("dnsmap: link %s: %w", r.cfg.Link, err)
	}
	index := int32(link.Index)
	if index == r.ifindex && r.isSet(ctx) {
		return false, nil
	}
	r.ifindex = index
	return true, r.set(ctx)
}

func (r *resolved) connect(ctx context.Context) error {
	if r.conn != nil && r.conn.Connected() {
		return nil
	}
	r.disconnect()
	// The connection outlives this call, so its context is not ctx, but a bus
	// that does not answer must not hold us longer than ctx allows.
	connCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	conn, err := r.dial(dbus.WithContext(connCtx))
	if !stop() && err == nil {
		err = ctx.Err()
		conn.Close()
	}
	if err != nil {
		cancel()
		return fmt.Errorf("dnsmap: %w: no D-Bus: %w", ErrNoResolved, err)
	}
	r.conn, r.cancel = conn, cancel
	r.subscribe(ctx)
	return nil
}

func (r *resolved) dial(opts ...dbus.ConnOption) (*dbus.Conn, error) {
	if r.cfg.Bus != "" {
		return dbus.Connect(r.cfg.Bus, opts...)
	}
	return dbus.ConnectSystemBus(opts...)
}

func (r *resolved) disconnect() {
	if r.conn != nil {
		r.conn.Close()
		r.cancel()
		r.conn = nil
	}
}

// running reports, without starting it, whether systemd-resolved is there and
// sees the links that we see. From inside a network namespace the bus of the
// host can often be reached: our link index would be another link there.
func (r *resolved) running(ctx context.Context) error {
	var owned bool
	bus := r.conn.BusObject()
	if err := bus.CallWithContext(ctx, busDaemon+"NameHasOwner", 0, resolvedName).Store(&owned); err != nil {
		return fmt.Errorf("dnsmap: %w: %w", ErrNoResolved, err)
	}
	if !owned {
		return fmt.Errorf("dnsmap: %w", ErrNoResolved)
	}
	var pid uint32
	if err := bus.CallWithContext(ctx, busDaemon+"GetConnectionUnixProcessID", 0, resolvedName).Store(&pid); err != nil {
		return fmt.Errorf("dnsmap: %w: %w", ErrNoResolved, err)
	}
	if !sameNetwork(pid) {
		return fmt.Errorf("dnsmap: %w in this network namespace", ErrNoResolved)
	}
	return nil
}

// sameNetwork reports whether a process is in our network namespace. Where the
// system does not let us see it, or has none, the answer is yes.
func sameNetwork(pid uint32) bool {
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return true
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrPermission) {
		return true
	}
	return err == nil && ours == theirs
}

func (r *resolved) call(ctx context.Context, method string, args ...any) *dbus.Call {
	return r.conn.Object(resolvedName, resolvedPath).
		CallWithContext(ctx, resolvedManager+method, dbus.FlagNoAutoStart, args...)
}

func (r *resolved) set(ctx context.Context) error {
	steps := []*dbus.Call{
		r.setServer(ctx),
		r.call(ctx, "SetLinkDomains", r.ifindex, r.domains()),
		optional(r.call(ctx, "SetLinkDefaultRoute", r.ifindex, false)), // since 240
	}
	for _, c := range steps {
		if c.Err != nil {
			return fmt.Errorf("dnsmap: systemd-resolved: %w", c.Err)
		}
	}
	// Our zone is signed by nobody and asked of this host only. Old versions
	// lack some of these; names work without them.
	for method, value := range map[string]string{
		"SetLinkDNSSEC": "no", "SetLinkDNSOverTLS": "no", "SetLinkLLMNR": "no", "SetLinkMulticastDNS": "no",
	} {
		if c := r.call(ctx, method, r.ifindex, value); c.Err != nil {
			r.cfg.Logger.Debug("systemd-resolved", "method", method, "err", c.Err)
		}
	}
	if c := r.call(ctx, "FlushCaches"); c.Err != nil {
		r.cfg.Logger.Debug("systemd-resolved", "method", "FlushCaches", "err", c.Err)
	}
	return nil
}

// setServer uses the call with a port only when it is needed: it came with
// version 246.
func (r *resolved) setServer(ctx context.Context) *dbus.Call {
	server := r.server()
	if r.cfg.Server.Port() == 53 {
		return r.call(ctx, "SetLinkDNS", r.ifindex, []linkAddress{server})
	}
	return r.call(ctx, "SetLinkDNSEx", r.ifindex,
		[]linkAddressEx{{Family: server.Family, Address: server.Address, Port: r.cfg.Server.Port()}})
}

// server is our address as the bus wants it. The numbers are those of Linux's
// AF_INET and AF_INET6, the only system with systemd.
func (r *resolved) server() linkAddress {
	a := r.cfg.Server.Addr()
	family := int32(10)
	if a.Is4() {
		family = 2
	}
	return linkAddress{Family: family, Address: a.AsSlice()}
}

// domains are the zone and the reverse zones, for routing only, unless the
// zone is to be searched.
func (r *resolved) domains() []linkDomain {
	list := []linkDomain{{Domain: strings.TrimSuffix(r.cfg.Zone, "."), Routing: !r.cfg.Search}}
	for _, p := range r.cfg.Prefixes {
		for _, zone := range reverseZones(p) {
			list = append(list, linkDomain{Domain: strings.TrimSuffix(zone, "."), Routing: true})
		}
	}
	return list
}

// isSet reports whether the link still has our server and domains. After a
// restart of systemd-resolved it has none.
func (r *resolved) isSet(ctx context.Context) bool {
	var path dbus.ObjectPath
	if err := r.call(ctx, "GetLink", r.ifindex).Store(&path); err != nil {
		return false
	}
	var servers []linkAddress
	var domains []linkDomain
	link := r.conn.Object(resolvedName, path)
	for name, value := range map[string]any{"DNS": &servers, "Domains": &domains} {
		var v dbus.Variant
		err := link.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", dbus.FlagNoAutoStart, resolvedLink, name).Store(&v)
		if err != nil || v.Store(value) != nil {
			return false
		}
	}
	want := r.server()
	return len(servers) == 1 && servers[0].Family == want.Family && slices.Equal(servers[0].Address, want.Address) &&
		sameDomains(domains, r.domains())
}

// sameDomains compares without order.
func sameDomains(a, b []linkDomain) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(d linkDomain) bool { return !slices.Contains(b, d) })
}

func (r *resolved) undo(ctx context.Context) error {
	defer r.disconnect()
	if r.conn == nil || r.ifindex == 0 {
		return nil
	}
	c := r.call(ctx, "RevertLink", r.ifindex)
	r.ifindex = 0
	var failure dbus.Error
	if errors.As(c.Err, &failure) {
		switch failure.Name {
		case resolvedName + ".NoSuchLink", "org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.ServiceUnknown":
			return nil // gone with all it knew of us
		}
	}
	if c.Err != nil {
		return fmt.Errorf("dnsmap: systemd-resolved: %w", c.Err)
	}
	return nil
}

// optional forgives a version that does not know the method.
func optional(c *dbus.Call) *dbus.Call {
	var failure dbus.Error
	if errors.As(c.Err, &failure) && failure.Name == errUnknownMethod {
		c.Err = nil
	}
	return c
}
