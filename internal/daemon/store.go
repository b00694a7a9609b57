package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/plaintext"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/routing"
)

// store changes the list of peers in its file. It serves the running node and
// the command beside it alike.
type store struct {
	file *config.Peers
	self identity.NodeID
	zone string
	// reserved are names that no peer may have.
	reserved []string
	// filter says which addresses the engine will take.
	filter nodemap.Filter
}

// newStore serves the state directory of a node.
func newStore(stateDir string, self identity.NodeID, s *config.Settings) *store {
	return &store{
		file: config.NewPeers(stateDir), self: self, zone: strings.TrimSuffix(s.Zone, "."),
		reserved: []string{ownName(s.Name), hostName()}, filter: nodemap.Filter{
			TUN: []netip.Prefix{routing.Prefix6()}, Loopback: slices.ContainsFunc(s.Bind, func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }),
		},
	}
}

// add adds a peer, or adds to what is known of one.
func (s *store) add(r localapi.AddRequest) (entry config.Peer, added bool, err error) {
	fresh, given, err := s.parse(r)
	if err != nil {
		return config.Peer{}, false, localapi.Wrap(localapi.KindBadRequest, err)
	}
	if fresh.ID == s.self {
		return config.Peer{}, false, localapi.Wrap(localapi.KindBadRequest, errors.New("that is this node itself"))
	}
	_, err = s.file.Edit(func(list []config.Peer) ([]config.Peer, error) {
		at := slices.IndexFunc(list, func(p config.Peer) bool { return p.ID == fresh.ID })
		if err := s.checkName(list, fresh); err != nil {
			return nil, err
		}
		if err := checkAddress(list, fresh.ID); err != nil {
			return nil, err
		}
		if added = at < 0; added {
			if !given {
				fresh.Rules = rules.Default()
			}
			entry = fresh
			return append(list, fresh), nil
		}
		entry = merge(list[at], fresh, given)
		list[at] = entry
		return list, nil
	})
	return entry, added, err
}

// parse reads the request; given says whether it names rules.
func (s *store) parse(r localapi.AddRequest) (p config.Peer, given bool, err error) {
	r.Peer = plaintext.Trim(r.Peer)
	addr, ticketErr := identity.ParseTicket(r.Peer)
	if ticketErr != nil {
		id, err := identity.ParseNodeID(r.Peer)
		if err != nil {
			return config.Peer{}, false, fmt.Errorf("%q is neither a node id nor a ticket", identity.Clean(r.Peer, 80))
		}
		addr = identity.NodeAddr{ID: id}
	}
	p = config.Peer{ID: addr.ID, Name: r.Name, Relay: addr.Relay}
	for _, direct := range addr.Direct { // what a ticket says is not the user's word
		if config.OfMachine(direct) && s.filter.Acceptable(direct, nodemap.SourceRelay) && !slices.Contains(p.Addrs, direct) && len(p.Addrs) < config.MaxAddrs {
			p.Addrs = append(p.Addrs, direct)
		}
	}
	for _, text := range r.Addrs {
		parsed, err := config.ParseAddrPort(text)
		if err != nil {
			return config.Peer{}, false, err
		}
		if why := s.refusal(parsed); why != "" {
			return config.Peer{}, false, fmt.Errorf("%s %s", parsed, why)
		}
		p.Addrs = append(p.Addrs, parsed)
	}
	if r.Relay != "" {
		if p.Relay, err = identity.ParseRelayURL(r.Relay); err != nil {
			return config.Peer{}, false, err
		}
	}
	if r.Allow != nil {
		if p.Rules, err = rules.Parse(r.Allow); err != nil {
			return config.Peer{}, false, err
		}
		if p.Rules.Empty() {
			return config.Peer{}, false, errors.New("--allow names no rule (to refuse a peer: nodetun deny)")
		}
	}
	return p, r.Allow != nil, nil
}

// refusal says why a peer cannot be reached at an address; empty when it can.
func (s *store) refusal(a netip.AddrPort) string {
	if why := s.filter.Refusal(a, nodemap.SourceApp); why != "" {
		return why
	}
	if zone := a.Addr().Zone(); zone != "" {
		if _, err := net.InterfaceByName(zone); err != nil {
			return "names a link that this machine does not have"
		}
	}
	return ""
}

// checkName refuses a petname that is malformed or another's.
func (s *store) checkName(list []config.Peer, p config.Peer) error {
	if p.Name == "" {
		return nil
	}
	if err := dnsmap.ValidPetname(p.Name); err != nil {
		return localapi.Wrap(localapi.KindBadRequest, err)
	}
	if slices.Contains(s.reserved, strings.ToLower(p.Name)) {
		return localapi.Wrap(localapi.KindConflict, fmt.Errorf("the name %q is this host's own", p.Name))
	}
	for _, other := range list {
		if strings.EqualFold(other.Name, p.Name) && other.ID != p.ID {
			return localapi.Wrap(localapi.KindConflict, fmt.Errorf("the name %q belongs to %s", p.Name, other.ID))
		}
	}
	return nil
}

// nameIsFree refuses a petname that a new peer could not have; none is fine.
func (s *store) nameIsFree(name string) error {
	list, err := s.file.Load()
	if err != nil {
		return err
	}
	return s.checkName(list, config.Peer{Name: name})
}

// offered returns a name that another node proposes for itself if it can be had, else none
// (S21).
func (s *store) offered(name string) string {
	if name = strings.ToLower(name); s.nameIsFree(name) != nil {
		return ""
	}
	return name
}

// checkAddress refuses a second peer with the overlay address of another.
func checkAddress(list []config.Peer, id identity.NodeID) error {
	for _, other := range list {
		if other.ID != id && routing.OverlayV6(other.ID) == routing.OverlayV6(id) {
			return localapi.Wrap(localapi.KindConflict, fmt.Errorf("%s and %s have the same overlay address", other.ID, id))
		}
	}
	return nil
}

// merge adds what is new to an entry.
func merge(p, fresh config.Peer, given bool) config.Peer {
	if fresh.Name != "" {
		p.Name = fresh.Name
	}
	if !fresh.Relay.IsZero() {
		p.Relay = fresh.Relay
	}
	if given {
		p.Rules = fresh.Rules
	}
	for _, addr := range fresh.Addrs {
		if !slices.Contains(p.Addrs, addr) {
			p.Addrs = append([]netip.AddrPort{addr}, p.Addrs...)
		}
	}
	p.Addrs = p.Addrs[:min(len(p.Addrs), config.MaxAddrs)] // the oldest go
	return p
}

// peerEdit changes an entry; remove takes it out of the list.
type peerEdit func(*config.Peer) (remove bool, err error)

// change edits the one entry that text names; remove takes it out.
func (s *store) change(text string, edit peerEdit) (config.Peer, error) {
	var entry config.Peer
	_, err := s.file.Edit(func(list []config.Peer) ([]config.Peer, error) {
		at, err := config.FindPeer(list, text, s.zone)
		if err != nil {
			return nil, localapi.Wrap(localapi.KindNotFound, err)
		}
		entry = list[at]
		remove, err := edit(&entry)
		if err != nil {
			return nil, err
		}
		if remove {
			return slices.Delete(list, at, at+1), nil
		}
		list[at] = entry
		return list, nil
	})
	return entry, err
}

func removePeer(*config.Peer) (bool, error) { return true, nil }

// allow adds rules, for good or until a time; none named means the default ones.
func (s *store) allow(r localapi.RulesRequest) (config.Peer, error) {
	now := time.Now()
	if r.Until != nil && !r.Until.After(now) {
		return config.Peer{}, localapi.Wrap(localapi.KindBadRequest, fmt.Errorf("%s is over", r.Until.Format(time.RFC3339)))
	}
	return s.change(r.Peer, func(p *config.Peer) (bool, error) {
		more := rules.Default()
		if len(r.Rules) > 0 {
			var err error
			if more, err = rules.Parse(r.Rules); err != nil {
				return false, localapi.Wrap(localapi.KindBadRequest, err)
			}
		}
		if r.Until == nil {
			p.Rules = p.Rules.With(more)
			return false, nil
		}
		if *p = p.Grant(more, *r.Until, now); len(p.Grants) > config.MaxGrants {
			return false, localapi.Wrap(localapi.KindConflict, fmt.Errorf("%s has %d grants already", p.Label(), config.MaxGrants))
		}
		return false, nil
	})
}

// takeRules takes rules away; none named means all.
func takeRules(r localapi.RulesRequest) peerEdit {
	return func(p *config.Peer) (bool, error) {
		less, err := rules.Parse(r.Rules)
		if err != nil {
			return false, localapi.Wrap(localapi.KindBadRequest, err)
		}
		if len(r.Rules) == 0 {
			less, _ = rules.Parse([]string{"all"})
		}
		if p.RulesAt(time.Now()).All() && !less.All() {
			return false, localapi.Wrap(localapi.KindBadRequest,
				fmt.Errorf("%s may do everything, of which single rules cannot be taken: deny all, then allow what it may", p.Label()))
		}
		*p = p.Without(less)
		return false, nil
	}
}
