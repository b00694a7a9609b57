package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/dnsmap"
)

const (
	// resolverAddr is where the resolver listens if it can, sparePort a port of the same
	// address for when it cannot: what the other server's configuration names must stay.
	resolverAddr = "127.0.0.153"
	sparePort    = 53820
	// resolverTimeout bounds how long a start waits for the host's resolver.
	resolverTimeout = 1500 * time.Millisecond
	// resolverRetry is how long a port that is taken is left alone, resolverAgain how
	// long whatever else keeps names from working is.
	resolverRetry = 10 * time.Second
	resolverAgain = time.Minute
)

// resolver gives nodes names on this host: a server, and the host's settings that lead
// there. What cannot be set up at the start is tried again until it works.
type resolver struct {
	d    *Daemon
	mode dnsmap.Mode
	kick chan struct{} // holds one: try again now

	mu     sync.Mutex // guards the fields below
	server *dnsmap.Server
	host   *dnsmap.HostDNS // nil while fail is not
	fail   error           // why names do not resolve
	fix    string          // what helps
	detour bool            // … but another server of this host asks ours
}

func newResolver(d *Daemon) (*resolver, error) {
	mode, err := dnsmap.ParseMode(d.cfg.Settings.DNS)
	if err != nil {
		return nil, err
	}
	return &resolver{d: d, mode: mode, kick: make(chan struct{}, 1)}, nil
}

// addrs are the addresses to listen on: at port 53, and as a last resort at others.
func (r *resolver) addrs(spare bool) []string {
	addrs := []netip.Addr{netip.MustParseAddr(resolverAddr)}
	for _, p := range r.d.addrs() {
		addrs = append(addrs, p.Addr())
	}
	var list []string
	for _, addr := range addrs {
		list = append(list, netip.AddrPortFrom(addr, 53).String())
	}
	if spare {
		list = append(list, netip.AddrPortFrom(addrs[0], sparePort).String(), netip.AddrPortFrom(addrs[0], 0).String())
	}
	return list
}

// open makes a server that listens.
func (r *resolver) open(spare bool) (*dnsmap.Server, error) {
	d := r.d
	server, err := dnsmap.NewServer(dnsmap.Config{
		Listen: r.addrs(spare), Names: d.names, Lookup: d.lookup, Reverse: d.table.Lookup, Prefixes: d.prefixes(), Logger: d.log,
	})
	if err == nil {
		_, err = server.Listen()
	}
	return server, err
}

// setUp listens for questions and tells the host's resolver. A host without names still
// has addresses: status says what is missing.
func (r *resolver) setUp(ctx context.Context) error {
	server, err := r.open(true)
	r.mu.Lock()
	r.server, r.host = nil, nil
	r.mu.Unlock()
	if err != nil {
		r.failed(err, "use the addresses that `nodetun ip <peer>` prints")
		return nil
	}
	r.mu.Lock()
	r.server = server
	r.mu.Unlock()
	return r.tell(ctx, server)
}

// tell has the host's resolver ask the server.
func (r *resolver) tell(ctx context.Context, server *dnsmap.Server) error {
	d, s := r.d, &r.d.cfg.Settings
	at := server.Addr()
	host, err := dnsmap.NewHost(dnsmap.HostConfig{
		Mode: r.mode, Link: d.link.Name(), Zone: s.Zone, Search: s.Search, Prefixes: d.prefixes(), Server: at,
		Alone: dnsmap.Musl(), StatePath: d.statePath(), OnServers: server.SetForward, Logger: d.log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, resolverTimeout)
	defer cancel()
	_, err = host.Apply(ctx)
	switch {
	case errors.Is(err, dnsmap.ErrPort):
		holder := portHolder(53)
		r.failed(fmt.Errorf("port 53 is taken%s", holder.by()), holder.advice(d.names.Zone(), at))
		return nil
	case errors.Is(err, dnsmap.ErrReadOnly):
		r.failed(errors.Join(err, host.Undo()), fmt.Sprintf("sudo chattr -i /etc/resolv.conf, or have your resolver ask %s for %s", at, s.Zone))
		return nil
	case err != nil:
		r.failed(errors.Join(err, host.Undo()), "use the addresses that `nodetun ip <peer>` prints")
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.host, r.fail, r.detour = host, nil, false
	return nil
}

func (r *resolver) failed(err error, fix string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail, r.fix = err, fix
}

// Run answers questions, keeps the host's settings, and tries again what failed, until
// ctx ends.
func (r *resolver) Run(ctx context.Context) error {
	for {
		r.mu.Lock()
		server, host, fail := r.server, r.host, r.fail
		r.mu.Unlock()
		group, run := errgroup.WithContext(ctx)
		run, stop := context.WithCancel(run)
		if server != nil {
			group.Go(func() error { return server.Run(run) })
		}
		if host != nil {
			group.Go(func() error { return host.Run(run) })
		}
		if fail != nil {
			group.Go(func() error { defer stop(); r.awaitBetter(run, server); return nil })
		}
		err := group.Wait()
		stop()
		if err != nil || ctx.Err() != nil {
			return err
		}
		if err := r.setUp(ctx); err != nil {
			return err
		}
	}
}

// awaitBetter returns when setting up anew may help: after a while, or, if port 53 was
// taken, when it is free. Until then the other server may have been told of ours, and
// names resolve all the same.
func (r *resolver) awaitBetter(ctx context.Context, server *dnsmap.Server) {
	portTaken := server != nil && server.Addr().Port() != 53
	wait := resolverAgain
	if portTaken {
		wait = resolverRetry
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-r.kick:
		}
		if !portTaken {
			return
		}
		if probe, err := r.open(false); err == nil {
			_ = probe.Close()
			r.d.log.Info("port 53 is free: names are set up")
			return
		}
		works := r.asked(ctx)
		r.mu.Lock()
		r.detour = works
		r.mu.Unlock()
	}
}

// asked reports whether a program of this host that asks for this node's own name hears
// its address.
func (r *resolver) asked(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, resolverTimeout)
	defer cancel()
	self := r.d.table.Self()
	found, err := (&net.Resolver{PreferGo: true}).LookupNetIP(ctx, "ip", r.d.names.FQDN(self.ID)+".")
	return err == nil && slices.ContainsFunc(found, func(a netip.Addr) bool { return a.Unmap() == self.V6 || a.Unmap() == self.V4 })
}

// again tries at once what failed.
func (r *resolver) again() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// undo takes back what was set up.
func (r *resolver) undo() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if r.host != nil {
		errs = append(errs, r.host.Undo())
	}
	if r.server != nil {
		errs = append(errs, r.server.Close())
	}
	return errors.Join(errs...)
}

// health tells why names do not resolve.
func (r *resolver) health(warn func(what, fix string)) {
	r.mu.Lock()
	fail, fix, detour := r.fail, r.fix, r.detour
	r.mu.Unlock()
	advice := r.report().Advice
	switch {
	case detour:
	case fail != nil:
		warn("names do not resolve: "+oneLine(fail), fix)
	case advice != "" && r.mode != dnsmap.ModeNone:
		what, fix, found := strings.Cut(advice, ": ")
		if !found {
			what, fix = "names do not resolve by themselves on this host", advice
		}
		warn(what, fix)
	}
}

// addr is where the server listens, empty for nowhere.
func (r *resolver) addr() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server == nil {
		return ""
	}
	return r.server.Addr().String()
}

// report says what is in force.
func (r *resolver) report() dnsmap.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == nil || r.fail != nil {
		return dnsmap.Report{Mode: dnsmap.ModeNone}
	}
	return r.host.Report()
}
