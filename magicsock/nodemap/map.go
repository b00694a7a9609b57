package nodemap

import (
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// Map holds the paths to all nodes. Make one with [New]. Not safe for
// concurrent use.
type Map struct {
	cfg Config
}

func New(cfg Config) *Map                                            { return &Map{cfg: cfg} }
func (m *Map) Next() time.Time                                       { return time.Time{} }
func (m *Map) Mapped(id identity.NodeID) netip.AddrPort              { return netip.AddrPort{} }
func (m *Map) NodeByMapped(a netip.AddrPort) (identity.NodeID, bool) { return identity.NodeID{}, false }
func (m *Map) Add(now time.Time, addr identity.NodeAddr, source Source) ([]Action, error) {
	return nil, nil
}
func (m *Map) Route(now time.Time, mapped netip.AddrPort, n, packets int, quicInitial bool) (Route, []Action) {
	return Route{}, nil
}
func (m *Map) Received(now time.Time, from Addr, relaySrc identity.NodeID, n int) (mapped netip.AddrPort, ok bool) {
	return netip.AddrPort{}, false
}
func (m *Map) HandlePing(now time.Time, sender identity.NodeID, from Addr, tx disco.TxID, size int) []Action {
	return nil
}
func (m *Map) HandlePong(now time.Time, sender identity.NodeID, from Addr, pong *disco.Pong) []Action {
	return nil
}
func (m *Map) HandleCallMeMaybe(now time.Time, sender identity.NodeID, via identity.RelayURL, addrs []netip.AddrPort) []Action {
	return nil
}
func (m *Map) Tick(now time.Time) ([]Action, time.Time)                       { return nil, time.Time{} }
func (m *Map) Ping(now time.Time, id identity.NodeID) []Action                { return nil } // ping every known address now
func (m *Map) SendFailed(now time.Time, id identity.NodeID, to Addr) []Action { return nil } // socket error on a direct address
func (m *Map) Established(now time.Time, id identity.NodeID) []Action         { return nil }
func (m *Map) SetOwnAddrs(now time.Time, addrs []netip.AddrPort) []Action     { return nil }
func (m *Map) SetTunPrefixes(prefixes []netip.Prefix)                         {}
func (m *Map) NetworkChanged(now time.Time) []Action                          { return nil }
func (m *Map) Remove(id identity.NodeID)                                      {}
func (m *Map) Remote(now time.Time, id identity.NodeID) (RemoteInfo, bool) {
	return RemoteInfo{}, false
}
func (m *Map) Remotes(now time.Time) []RemoteInfo              { return nil }
func (m *Map) Acceptable(a netip.AddrPort, source Source) bool { return false } // S9
func (m *Map) Claims(now time.Time) []Claim                    { return nil }

// Claim is the address under which a node says that it sees us (S11).
type Claim struct {
	Node   identity.NodeID
	From   netip.AddrPort // the address of the node that answered
	Addr   netip.AddrPort // ours, as seen there
	At     time.Time
	Paired bool
}
