package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/magicsock/relayactor"
)

// Status implements localapi.Backend.
func (d *Daemon) Status(ctx context.Context) (localapi.Status, error) {
	self, err := d.Self(ctx)
	if err != nil {
		return localapi.Status{}, err
	}
	entries := d.entries()
	d.checkTunnel(checkGap)
	states := d.engine.Peers()
	peers := make([]localapi.Peer, 0, len(states))
	for _, state := range states {
		peers = append(peers, d.peerRow(state, entries[state.ID]))
	}
	return localapi.Status{Self: self, Peers: peers, Relays: d.relayRows(), Published: d.publications(), Health: d.health(states)}, nil
}

// relayRows tells how it stands with each relay, the home first.
func (d *Daemon) relayRows() []localapi.Relay {
	rows := []localapi.Relay{}
	for _, r := range d.endpoint.Socket().RelayStatus() {
		row := localapi.Relay{URL: r.URL.String(), Home: r.Home, State: string(r.State), Since: r.Since.UTC().Truncate(time.Millisecond), Shared: r.Shared, Flooded: r.Flooded}
		if r.RTT > 0 {
			row.RTTms = milliseconds(r.RTT)
		}
		if r.LastError != "" {
			row.LastError = pointer(identity.Clean(r.LastError, 200))
		}
		rows = append(rows, row)
	}
	return rows
}

// Self implements localapi.Backend.
func (d *Daemon) Self(context.Context) (localapi.Self, error) {
	pid, uptime := os.Getpid(), int64(time.Since(d.began)/time.Second)
	own := d.table.Self()
	self := localapi.Self{
		ID: own.ID, Name: ownName(d.cfg.Settings.Name), FQDN: d.names.FQDN(own.ID), IPv6: own.V6.String(), IPv4: text(own.V4),
		Version: d.cfg.Version, PID: &pid, UptimeS: &uptime, DirectAddresses: []string{}, Zone: d.names.Zone(), DNS: string(d.resolver.report().Mode), DNSServer: d.resolver.addr(),
	}
	for _, addr := range d.endpoint.Socket().DirectAddrs() {
		self.DirectAddresses = append(self.DirectAddresses, addr.Addr.String())
	}
	if home := d.endpoint.Socket().HomeRelay(); !home.IsZero() {
		self.Relay = pointer(home.String())
	}
	for _, relay := range d.endpoint.Socket().RelayStatus() {
		if relay.Home && relay.RTT > 0 {
			self.RelayRTTms = milliseconds(relay.RTT)
		}
	}
	if info := d.endpoint.Socket().NetInfo(); info.Report != nil {
		self.NAT, self.UDP = pointer(info.NAT), pointer(info.Report.UDP)
	}
	return self, nil
}

// pointer returns where JSON has null for nothing.
func pointer[T any](v T) *T { return &v }

// text returns an address as JSON has it, null for none.
func text(a netip.Addr) *string {
	if !a.IsValid() {
		return nil
	}
	return pointer(a.String())
}

// milliseconds returns d as JSON has it.
func milliseconds(d time.Duration) *float64 {
	return pointer(float64(d.Round(time.Microsecond)) / float64(time.Millisecond))
}

// peerRow is one row of the status.
func (d *Daemon) peerRow(state engine.PeerState, p config.Peer) localapi.Peer {
	entry, _ := d.table.Entry(state.ID)
	row := localapi.Peer{
		ID: state.ID, Name: p.Name, FQDN: d.names.FQDN(state.ID), IPv6: entry.V6.String(), IPv4: text(entry.V4),
		State: string(state.State), Path: state.Path, RxBytes: state.Rx, TxBytes: state.Tx, Flows: state.Flows,
		Rules: p.RulesAt(time.Now()).Strings(), ProposedName: state.TheirName, TheirRules: state.TheirRules, OnDemand: state.OnDemand,
	}
	if row.TheirRules == nil {
		row.TheirRules = []string{}
	}
	if state.Endpoint != "" {
		row.Endpoint = pointer(state.Endpoint)
	}
	if state.RTT > 0 {
		row.RTTms = milliseconds(state.RTT)
	}
	if state.TheirNAT != "" {
		row.NAT = pointer(state.TheirNAT)
	}
	if !state.LastSeen.IsZero() {
		row.LastSeen = pointer(state.LastSeen.UTC().Truncate(time.Millisecond))
	}
	if state.LastError != "" {
		row.LastError = pointer(state.LastError)
	}
	if info, ok := d.endpoint.Socket().Remote(state.ID); ok && !info.RelayInfo.URL.IsZero() {
		row.Relay = pointer(info.RelayInfo.URL.String())
	}
	row.Loss, row.Repair = d.repair(state.ID)
	return row
}

// repair tells of loss on the way from a peer, and what is done about it.
func (d *Daemon) repair(id identity.NodeID) (loss *float64, r *localapi.Repair) {
	info, ok := d.endpoint.Socket().Coding(id)
	if !ok || info.Received.Data == 0 {
		return nil, nil
	}
	return pointer(info.Loss), &localapi.Repair{
		Received: info.Received.Data, ParityReceived: info.Received.Parity, Repaired: info.Received.Repaired, Dropped: info.Dropped,
		Sent: info.SentData, ParitySent: info.SentParity, Asked: info.Asked, Wanted: info.Wanted, TooFast: info.Ours,
	}
}

// entries maps the peers in force to what the user said of them.
func (d *Daemon) entries() map[identity.NodeID]config.Peer {
	all := make(map[identity.NodeID]config.Peer)
	for _, p := range d.allPeers() {
		all[p.ID] = p
	}
	return all
}

// health lists what the user should know, each with what helps.
func (d *Daemon) health(states []engine.PeerState) []localapi.Health {
	list := []localapi.Health{}
	warn := func(what, fix string) {
		list = append(list, localapi.Health{Level: "warn", Text: what, Fix: fix})
	}
	if !d.online(states) {
		warn("this machine has no network address: no peer can be reached", "connect a network; nothing else is to be done")
	}
	d.socketHealth(warn)
	d.relayHealth(d.online(states), warn)
	d.publishHealth(warn)
	if d.poolFail != nil {
		warn("no IPv4 in the tunnel: "+oneLine(d.poolFail), "set ipv4_pool to a prefix that this host does not use")
	}
	d.poolHealth(warn)
	d.mu.Lock()
	list = append(list, d.peerHealth...)
	d.mu.Unlock()
	list = append(list, d.troubles.list()...)
	if d.cfg.Settings.Name == "" {
		nameHealth(hostName(), warn)
	}
	for _, problem := range d.host.Problems() {
		warn(problem.Text, problem.Fix)
	}
	d.resolver.health(warn)
	for _, state := range states {
		flowHealth(d.label(state.ID), &state, warn)
		if strings.HasPrefix(state.LastError, "no answer") {
			warn(fmt.Sprintf("%s gives no answer: it is offline, or it has not added you", d.label(state.ID)),
				"on that machine: sudo nodetun peer add "+d.key.NodeID().String())
		}
	}
	return list
}

// flowHealth tells of TCP connections that are too many, or that wait for a peer.
func flowHealth(label string, state *engine.PeerState, warn func(what, fix string)) {
	switch {
	case state.Crowd != 0:
		warn(fmt.Sprintf("%d TCP connections with %s are open, most of them to port %d: from %d on more of those are refused", state.Flows, label, state.Crowd, state.Limit),
			fmt.Sprintf("find the program that leaves them open, on either machine: ss -tnp '( sport = :%d or dport = :%d )'", state.Crowd, state.Crowd))
	case state.State == engine.StateUnreachable && state.Flows == 1:
		warn(fmt.Sprintf("a TCP connection waits for %s, which does not answer", label), "it goes on when that machine is back; nothing is to be done")
	case state.State == engine.StateUnreachable && state.Flows > 0:
		warn(fmt.Sprintf("%d TCP connections wait for %s, which does not answer", state.Flows, label), "they go on when that machine is back; nothing is to be done")
	}
}

// online reports whether the node has an address that others might reach, or a peer
// that answers.
func (d *Daemon) online(states []engine.PeerState) bool {
	for _, addr := range d.endpoint.Socket().DirectAddrs() {
		if !addr.Addr.Addr().IsLoopback() {
			return true
		}
	}
	return slices.ContainsFunc(states, func(p engine.PeerState) bool { return p.State == engine.StateConnected })
}

// nameHealth tells of a host name that cannot be the node's.
func nameHealth(host string, warn func(what, fix string)) {
	if err := dnsmap.ValidPetname(host); host != "" && err != nil {
		warn(fmt.Sprintf("the name of this machine cannot be one in the tunnel: %v", err), `choose one: name = "..." in nodetun.toml`)
	}
}

// socketHealth tells of UDP sockets that are missing.
func (d *Daemon) socketHealth(warn func(what, fix string)) {
	for _, trouble := range d.endpoint.Socket().SocketTroubles() {
		why := oneLine(trouble.Err)
		switch {
		case errors.Is(trouble.Err, syscall.EADDRNOTAVAIL):
			why = "the address is not there"
		case errors.Is(trouble.Err, syscall.EADDRINUSE):
			why = "another program has the port"
		case errors.Is(trouble.Err, syscall.EMFILE), errors.Is(trouble.Err, syscall.ENFILE):
			why = "too many files are open"
		case errors.Is(trouble.Err, syscall.ENOMEM), errors.Is(trouble.Err, syscall.ENOBUFS):
			why = "the system has no memory for it"
		}
		warn(fmt.Sprintf("no UDP socket on %s: %s", trouble.Addr.Addr(), why), "it is tried again by itself")
	}
}

// relayHealth tells of relays that do not answer. Relays that were switched off are
// no fault.
func (d *Daemon) relayHealth(online bool, warn func(what, fix string)) {
	var failed []relayactor.Status
	for _, relay := range d.endpoint.Socket().RelayStatus() {
		if relay.Shared {
			warn("another machine uses this node's key: peers reach that one or this one by chance",
				"keep the key on one of them; on the other stop nodetun and remove "+KeyPath(d.cfg.StateDir))
		}
		if relay.Flooded {
			warn(fmt.Sprintf("nodes that are no peers flood this one through relay %s: what they send is dropped, but fills the line", relay.URL),
				"another relay of the list is taken if one can be reached; a relay of your own lets in whom you name")
		}
		noNetwork := !online && strings.Contains(relay.LastError, "lookup ") // which is said
		if relay.State != relayactor.StateConnected && relay.LastError != "" && !noNetwork {
			failed = append(failed, relay)
		}
	}
	if len(failed) > 0 {
		first := failed[0]
		what := fmt.Sprintf("relay %s: %s", first.URL, identity.Clean(first.LastError, 200))
		if len(failed) > 1 {
			what = fmt.Sprintf("%d relays cannot be reached, among them %s: %s", len(failed), first.URL, identity.Clean(first.LastError, 200))
		}
		fix := "it is tried again by itself"
		if strings.Contains(first.LastError, "dial tcp") && len(d.proxies.Sources()) == 0 {
			fix += `; if this network has a proxy, set proxy = "http://host:port" in nodetun.toml (sudo and systemd leave https_proxy out)`
		}
		warn(what, fix)
	}
	if err := d.proxies.Err(); err != nil {
		warn("no proxy is used: "+err.Error(), `set proxy = "http://host:port" in nodetun.toml`)
	}
}

// label is how people know the node.
func (d *Daemon) label(id identity.NodeID) string {
	if name, ok := d.names.NameOf(id); ok && name != "" {
		return name
	}
	return id.Short()
}

// oneLine words an error that may be several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
