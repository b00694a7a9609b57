package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/dht"
	"github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/discovery/mdns"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/discovery/static"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/proxies"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// finder finds nodes and makes this one known.
type finder struct {
	sources []source
	// known are those of them that need nobody.
	known   []static.Func
	history *pkarr.History
	client  pkarr.Client // of the server of packets; its URL is empty for none
	dht     *dht.Client  // nil: not used
	// publishers make this node known, each at one place.
	publishers []*pkarr.Publisher
	local      *mdns.Node    // nil: not used
	kick       chan struct{} // holds one: where this node is may have changed
}

// source is one that is asked for nodes, or is off.
type source struct {
	name, server string
	resolver     discovery.Resolver // nil if it is off
	off          string             // why
}

// newFinder prepares the sources of the settings; saved is where a peer was found last, tun
// is routed into the tunnel.
func newFinder(s *config.Settings, d *net.Dialer, p *proxies.Proxies, tun []netip.Prefix, saved func(identity.NodeID) (identity.NodeAddr, bool)) *finder {
	f := &finder{history: &pkarr.History{}, kick: make(chan struct{}, 1)}
	f.known = append(f.known, static.Func{Name: string(nodemap.SourceSaved), Find: saved})
	if relays := relaysOf(s); len(relays) > 0 {
		// Nodes of one configuration meet at its first relay.
		f.known = append(f.known, static.Func{Name: string(nodemap.SourceGuess), Find: func(id identity.NodeID) (identity.NodeAddr, bool) {
			return identity.NodeAddr{ID: id, Relay: relays[0]}, true
		}})
	}
	for _, known := range f.known {
		f.sources = append(f.sources, source{name: known.Name, resolver: known})
	}
	server := packetServer(s)
	if server == "" {
		const why = `discovery = "none"`
		f.sources = append(f.sources, source{name: string(nodemap.SourcePkarr), off: why}, source{name: "dns", off: why})
	} else {
		f.client = pkarr.Client{URL: server, HTTP: httpClient(d, p)}
		f.sources = append(f.sources, source{name: string(nodemap.SourcePkarr), server: server, resolver: pkarr.Resolver{Client: f.client, History: f.history}})
		if origin := dnsOrigin(server); origin != "" {
			f.sources = append(f.sources, source{name: "dns", server: origin, resolver: &dns.Resolver{Origin: origin, Client: dns.Client{Control: d.Control}}})
		} else {
			f.sources = append(f.sources, source{name: "dns", off: "the server is not named by a domain with a certificate"})
		}
	}
	if !s.MDNS {
		f.sources = append(f.sources, source{name: mdns.Source, off: "mdns = false"})
	}
	if s.DHT {
		f.dht = dht.New(dht.Config{DNS: d.Resolver, Control: d.Control, TunPrefixes: tun, History: f.history})
		f.sources = append(f.sources, source{name: dht.Source, server: f.dht.String(), resolver: f.dht})
	} else {
		f.sources = append(f.sources, source{name: dht.Source, off: "dht = false"})
	}
	return f
}

// resolvers are the sources that are not off.
func (f *finder) resolvers() (list discovery.Concurrent) {
	for _, s := range f.sources {
		if s.resolver != nil {
			list = append(list, s.resolver)
		}
	}
	return list
}

// close lets go of connections.
func (f *finder) close() {
	if f.client.HTTP != nil {
		f.client.HTTP.CloseIdleConnections()
	}
}

// packetServer is the URL of the server that keeps signed packets, empty for none. A URL
// without a path is that of a whole discovery server.
func packetServer(s *config.Settings) string {
	switch s.Discovery {
	case "none":
		return ""
	case "":
		return pkarr.DefaultServer
	}
	u, err := url.Parse(s.Discovery)
	if err == nil && strings.Trim(u.Path, "/") == "" {
		u.Path = "/pkarr"
		return u.String()
	}
	return s.Discovery
}

// openDiscovery prepares the sources that are asked for nodes, and the publishers.
func (d *Daemon) openDiscovery(context.Context) error {
	s := &d.cfg.Settings
	d.finder = newFinder(s, underlayDialer(s, d.log), d.proxies, d.prefixes(), d.savedAddr)
	d.undo.add(func() error { d.finder.close(); return nil })
	d.mu.Lock()
	for id, good := range d.good.Peers {
		d.finder.history.Set(id, good.Signed)
	}
	last := d.good.Signed
	d.mu.Unlock()
	if s.MDNS {
		d.openLocal()
	}
	if s.Publish == "none" {
		return nil
	}
	signer := pkarr.NewSigner(d.key, last, d.keepSigned)
	if d.finder.client.URL != "" {
		d.finder.publishers = append(d.finder.publishers, pkarr.NewPublisher(d.finder.client, pkarr.Republish, signer, d.log))
	}
	if d.finder.dht != nil {
		d.finder.publishers = append(d.finder.publishers, pkarr.NewPublisher(d.finder.dht, dht.Republish, signer, d.log))
	}
	return nil
}

// openLocal prepares to find nodes on the links of this host. Where the port cannot be had
// all else goes on.
func (d *Daemon) openLocal() {
	local, err := mdns.New(mdns.Config{
		ID: d.key.NodeID(), Skip: func(link string) bool { return link == d.cfg.Settings.TUN },
		Control: udpconn.MarkControl(d.cfg.Settings.Fwmark, d.log), Logger: d.log,
		OnFound: func(item discovery.Item) {
			if d.paired(item.Addr.ID) {
				_ = d.endpoint.Socket().AddNodeAddr(item.Addr, item.Source)
			}
		},
	})
	if err != nil {
		d.log.Info("nodes on the local network are not looked for", "err", err)
		d.finder.sources = append(d.finder.sources, source{name: mdns.Source, off: oneLine(err)})
		return
	}
	d.undo.add(func() error { local.Close(); return nil })
	d.finder.local = local
	d.finder.sources = append(d.finder.sources, source{name: mdns.Source, resolver: local})
}

// savedAddr is where a peer was found last.
func (d *Daemon) savedAddr(id identity.NodeID) (identity.NodeAddr, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	good, ok := d.good.Peers[id]
	return good.Addr(id), ok
}

// dnsOrigin is the zone in which a server of packets, by its URL, has the same records: its
// own name. One without a certificate, for tests, has none.
func dnsOrigin(server string) string {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" {
		return ""
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil || !strings.Contains(u.Hostname(), ".") {
		return ""
	}
	return strings.TrimSuffix(u.Hostname(), ".")
}

// underlayDialer connects outside the tunnel.
func underlayDialer(s *config.Settings, log *slog.Logger) *net.Dialer {
	mark := udpconn.MarkControl(s.Fwmark, log)
	names := dns.Client{Control: mark}
	return &net.Dialer{Timeout: 5 * time.Second, Control: mark, Resolver: names.Resolver()}
}

// httpClient makes requests by the proxy that leads there.
func httpClient(d *net.Dialer, p *proxies.Proxies) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: d.DialContext, Proxy: func(r *http.Request) (*url.URL, error) { return p.For(r.URL), nil },
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the server sends requests elsewhere") },
	}
}

// keepSigned writes down the timestamp of what this node published last.
func (d *Daemon) keepSigned(timestamp uint64) {
	d.signed.Store(timestamp)
	d.writeAddresses()
}

// publish makes this node known until ctx ends, anew whenever it is somewhere else.
func (d *Daemon) publish(ctx context.Context) error {
	f := d.finder
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range f.publishers {
		group.Go(func() error { return p.Run(ctx) })
	}
	if f.local != nil {
		group.Go(func() error { return f.local.Run(ctx) })
	}
	var last []string
	for {
		if addr := d.toPublish(); !addr.IsEmpty() {
			if says := discovery.Records(addr); !slices.Equal(says, last) {
				last = says
				for _, p := range f.publishers {
					p.Publish(addr)
				}
			}
		}
		if f.local != nil {
			f.local.Publish(d.toAnnounce())
		}
		select {
		case <-ctx.Done():
			return group.Wait()
		case <-f.kick:
		}
	}
}

// toPublish is what others may know of where this node is (S11, S27): its relay, and with
// publish = "all" its public addresses.
func (d *Daemon) toPublish() identity.NodeAddr {
	addr := d.endpoint.NodeAddr()
	if d.cfg.Settings.Publish != "all" {
		addr.Direct = nil
	}
	addr.Direct = slices.DeleteFunc(addr.Direct, func(a netip.AddrPort) bool { return magicsock.IsPrivate(a.Addr()) })
	return addr
}

// toAnnounce is what is said on the links of this host: all addresses, but for who publishes
// nothing.
func (d *Daemon) toAnnounce() identity.NodeAddr {
	addr := d.endpoint.NodeAddr()
	if d.cfg.Settings.Publish == "none" {
		addr.Direct = nil
	}
	return addr
}

// publications tells how it goes with making this node known.
func (d *Daemon) publications() []localapi.Publication {
	list := []localapi.Publication{}
	for _, publisher := range d.finder.publishers {
		list = append(list, d.publication(publisher))
	}
	return list
}

// publication tells it of one place.
func (d *Daemon) publication(publisher *pkarr.Publisher) localapi.Publication {
	p := localapi.Publication{Server: publisher.Server()}
	if d.toPublish().IsEmpty() {
		why := "there is nothing to say without a relay"
		if d.cfg.Settings.Publish == "relay" {
			why += ` (publish = "all" tells public addresses)`
		}
		p.Error = &why
		return p
	}
	status := publisher.Status()
	if !status.Last.IsZero() {
		p.Last = pointer(status.Last.UTC().Truncate(time.Second))
	}
	if status.Err != nil {
		p.Error = pointer(identity.Clean(oneLine(status.Err), 200))
	}
	return p
}

// publishPatience is for how long publishing may fail before the user should know.
const publishPatience = time.Minute

// publishHealth tells that others do not learn where this node is.
func (d *Daemon) publishHealth(warn func(what, fix string)) {
	for _, p := range d.publications() {
		since := d.began
		if p.Last != nil {
			since = *p.Last
		}
		if p.Error != nil && !d.toPublish().IsEmpty() && time.Since(since) > publishPatience {
			warn("this node is not made known at "+p.Server+": "+*p.Error, `it is tried again by itself; who knows no address of this machine does not find it there until then. Without such a server: discovery = "none", or dht = false`)
		}
	}
}
