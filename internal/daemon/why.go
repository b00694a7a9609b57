package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/proxies"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/netcheck"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// Why implements localapi.Backend.
func (d *Daemon) Why(ctx context.Context, peer string) (localapi.Why, error) {
	id, err := d.findPeer(peer)
	if err != nil {
		return localapi.Why{}, err
	}
	known, err := d.engine.Why(ctx, id)
	if errors.Is(err, engine.ErrUnknownPeer) {
		return localapi.Why{}, localapi.Wrap(localapi.KindNotFound, err)
	}
	if err != nil {
		return localapi.Why{}, err
	}
	w := localapi.Why{
		ID: id, Peer: d.label(id), Self: side(known.Own), Candidates: candidates(known.Own.Candidates),
		Switches: known.Info.Switches, SwitchReasons: reasons(known.Info.SwitchReasons), LastReason: string(known.Info.LastReason),
	}
	if !known.Info.LastSwitch.IsZero() {
		w.LastSwitch = pointer(known.Info.LastSwitch.UTC().Truncate(time.Millisecond))
	}
	if known.Theirs != nil {
		w.Their = pointer(side(*known.Theirs))
		w.TheirCandidates = candidates(known.Theirs.Candidates)
	}
	lastError := ""
	for _, state := range d.engine.Peers() {
		if state.ID == id {
			w.Path, w.Endpoint, lastError = state.Path, state.Endpoint, state.LastError
		}
	}
	w.Loss, w.Repair = d.repair(id)
	w.Cause, w.Remedy = explain(&w, &known.Info, lastError)
	return w, nil
}

// side is what facts say about one node, for people.
func side(f wire.Facts) localapi.Side {
	s := localapi.Side{
		NAT: f.NAT.Mapping, UDP: f.NAT.UDP, V4: f.NAT.V4, V6: f.NAT.V6, Portmap: f.NAT.Portmap, Relay: f.Relay, Public: f.NAT.Public,
	}
	if s.NAT == "" {
		s.NAT = netcheck.NATUnknown
	}
	if s.Public == nil {
		s.Public = []string{}
	}
	return s
}

func candidates(list []wire.Candidate) []localapi.Candidate {
	out := make([]localapi.Candidate, 0, len(list))
	for _, c := range list {
		out = append(out, localapi.Candidate{Addr: c.Addr, Kind: c.Kind, LastResult: c.LastResult, RTTms: c.RTT, MTU: c.MTU})
	}
	return out
}

func reasons(m map[nodemap.Reason]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(m))
	for reason, count := range m {
		out[string(reason)] = count
	}
	return out
}

// openNAT is what helps when no NAT can be got through.
const openNAT = "turn on PCP, NAT-PMP or UPnP at the router of one side, forward a UDP port to it, or use IPv6 on both"

// explain says in a sentence each why the path is what it is, and what would make
// it direct.
func explain(w *localapi.Why, info *nodemap.RemoteInfo, lastError string) (cause, remedy string) {
	switch w.Path {
	case nodemap.ConnDirect.String():
		return fmt.Sprintf("%s answers directly at %s", w.Peer, w.Endpoint), ""
	case nodemap.ConnMixed.String():
		return fmt.Sprintf("the direct address %s is in doubt, so packets go both ways for the moment", w.Endpoint), "wait a few seconds and ask again"
	case nodemap.ConnRelay.String():
		return explainRelay(w, info)
	}
	if lastError != "" {
		return lastError, "see that nodetun is up on that machine and that it has added this one (nodetun peer ls)"
	}
	return "nothing has been sent to " + w.Peer + " for a while, so nothing is known", "nodetun ping " + w.Peer
}

// explainRelay says why packets go by the relay.
func explainRelay(w *localapi.Why, info *nodemap.RemoteInfo) (cause, remedy string) {
	narrow := false
	for _, a := range info.Addrs {
		narrow = narrow || a.Narrow
	}
	hard := "gives each destination another port"
	switch {
	case w.Self.NAT == netcheck.NATBlocked:
		return "UDP does not get out of this network", "let UDP out at the firewall of this network"
	case w.Their == nil:
		return w.Peer + " has not told about its network yet", "ask again in a few seconds; if it stays so, its nodetun is older than this one"
	case w.Their.NAT == netcheck.NATBlocked:
		return "UDP does not get out of the network of " + w.Peer, "let UDP out at the firewall of that network"
	case narrow:
		return fmt.Sprintf("the direct path to %s carries no packets of 1200 bytes", w.Peer), "raise the MTU of the network between (often a second VPN)"
	case w.Self.NAT == netcheck.NATHard && w.Their.NAT == netcheck.NATHard:
		return "the NAT of each side " + hard, openNAT
	case w.Self.NAT == netcheck.NATHard:
		return fmt.Sprintf("this node's NAT %s, and that of %s lets in only answers; luck is tried once a minute", hard, w.Peer), openNAT
	case w.Their.NAT == netcheck.NATHard:
		return fmt.Sprintf("the NAT of %s %s, and this node's lets in only answers; luck is tried once a minute", w.Peer, hard), openNAT
	case w.Self.NAT == netcheck.NATUnknown:
		return "how this node's NAT works is not known: fewer than two STUN servers answered", "set stun = [\"host:port\", …] in nodetun.toml, or use relays that serve STUN"
	case w.Their.NAT == netcheck.NATUnknown:
		return fmt.Sprintf("how the NAT of %s works is not known: fewer than two STUN servers answered there", w.Peer), "set stun in its nodetun.toml, or use relays that serve STUN"
	}
	return "no direct address answers although both NATs would let it through: a firewall on one side drops UDP", "let UDP in to the port of nodetun (41820 if not set otherwise) on either side"
}

// Netcheck implements localapi.Backend.
func (d *Daemon) Netcheck(ctx context.Context, progress func(string)) (localapi.Netcheck, error) {
	return look(ctx, d.endpoint.Socket(), d.proxies, progress)
}

// look runs a full check.
func look(ctx context.Context, socket *magicsock.Conn, through *proxies.Proxies, progress func(string)) (localapi.Netcheck, error) {
	report, err := socket.Netcheck(ctx, func(p netcheck.Progress) {
		if progress != nil {
			progress(p.Text)
		}
	})
	if report == nil {
		return localapi.Netcheck{}, err
	}
	info := socket.NetInfo()
	out := localapi.Netcheck{NAT: info.NAT, Mapping: info.Portmap, Proxies: []localapi.Proxy{}, LinksLeftOut: []localapi.LeftOut{}, Report: report}
	for _, p := range through.Sources() {
		out.Proxies = append(out.Proxies, localapi.Proxy(p))
	}
	left, err := socket.LeftOut()
	for _, link := range left {
		out.LinksLeftOut = append(out.LinksLeftOut, localapi.LeftOut(link))
	}
	if info.PortmapAddr.IsValid() {
		out.MappingAddr = info.PortmapAddr.String()
	}
	return out, err
}
