package netcheck

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Maybe is true, false or not known, the zero value. In JSON: true, false, null.
type Maybe int8

// The known values of Maybe.
const (
	Unknown Maybe = iota
	False
	True
)

// MaybeOf makes a known Maybe.
func MaybeOf(b bool) Maybe {
	if b {
		return True
	}
	return False
}

// IsTrue and IsFalse say that it is known, and what.
func (m Maybe) IsTrue() bool { return m == True }

// IsFalse says that it is known to be false.
func (m Maybe) IsFalse() bool { return m == False }

// String returns yes, no or unknown.
func (m Maybe) String() string {
	switch m {
	case True:
		return "yes"
	case False:
		return "no"
	}
	return "unknown"
}

// MarshalJSON implements json.Marshaler.
func (m Maybe) MarshalJSON() ([]byte, error) {
	switch m {
	case True:
		return []byte("true"), nil
	case False:
		return []byte("false"), nil
	}
	return []byte("null"), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *Maybe) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*m = True
	case "false":
		*m = False
	default:
		*m = Unknown
	}
	return nil
}

// Portmap tells which protocols the router speaks.
type Portmap struct {
	UPnP   bool `json:"upnp"`
	PCP    bool `json:"pcp"`
	NATPMP bool `json:"nat_pmp"`
}

// Mapping is what one STUN server saw.
type Mapping struct {
	// Server is the ip:port that was asked, Name how it was named.
	Server netip.AddrPort `json:"server"`
	Name   string         `json:"name"`
	// Addr is the address that it saw.
	Addr    netip.AddrPort `json:"addr"`
	Latency time.Duration  `json:"latency_ns"`

	number int // of its request, in the order of leaving
}

// RelayLatency is how far a relay is. Zero durations were not measured.
type RelayLatency struct {
	URL    identity.RelayURL `json:"url"`
	STUNv4 time.Duration     `json:"stun4_ns"`
	STUNv6 time.Duration     `json:"stun6_ns"`
	HTTPS  time.Duration     `json:"https_ns"`
	ICMP   time.Duration     `json:"icmp_ns"`
	// Err says why it does not answer; empty when it does.
	Err string `json:"error,omitempty"`

	at time.Time // of the report in which it answered last
}

// Best returns the smallest latency, 0 for none.
func (r RelayLatency) Best() time.Duration {
	best := time.Duration(0)
	for _, d := range []time.Duration{r.STUNv4, r.STUNv6, r.HTTPS, r.ICMP} {
		if d > 0 && (best == 0 || d < best) {
			best = d
		}
	}
	return best
}

// Report is what one run found. It is never changed once it was given out.
type Report struct {
	// UDP says that a STUN answer came, IPv4 and IPv6 by which family.
	UDP  bool `json:"udp"`
	IPv4 bool `json:"ipv4"`
	IPv6 bool `json:"ipv6"`
	// CanSendV4 and CanSendV6 say that the host could send at all.
	CanSendV4 bool  `json:"can_send_ipv4"`
	CanSendV6 bool  `json:"can_send_ipv6"`
	ICMPv4    Maybe `json:"icmp4"`
	ICMPv6    Maybe `json:"icmp6"`
	// MappingVaries says that different destinations see different addresses.
	MappingVariesV4 Maybe `json:"mapping_varies_ipv4"`
	MappingVariesV6 Maybe `json:"mapping_varies_ipv6"`
	// PortDelta is the step of a NAT that counts its ports up, 0 for any other.
	PortDelta     int   `json:"port_delta,omitempty"`
	Hairpin       Maybe `json:"hairpin"`
	CaptivePortal Maybe `json:"captive_portal"`
	// Portmap is nil when the router was not asked.
	Portmap *Portmap `json:"portmap"`
	// GlobalV4 and GlobalV6 are our addresses as seen from outside.
	GlobalV4 netip.AddrPort `json:"global_ipv4"`
	GlobalV6 netip.AddrPort `json:"global_ipv6"`
	Mapped   []Mapping      `json:"mapped"`
	Relays   []RelayLatency `json:"relays"`
	// Preferred is the nearest relay, zero for none.
	Preferred identity.RelayURL `json:"preferred_relay"`
	// Asked says that there was a STUN server to ask, and an interface to ask by.
	Asked bool          `json:"asked"`
	Full  bool          `json:"full"`
	At    time.Time     `json:"at"`
	Took  time.Duration `json:"took_ns"`
}

// relay returns the entry of a relay, an empty one for none. r may be nil.
func (r *Report) relay(url identity.RelayURL) RelayLatency {
	if r != nil {
		for _, l := range r.Relays {
			if l.URL == url {
				return l
			}
		}
	}
	return RelayLatency{}
}

// has says that a server saw us at an address.
func (r *Report) has(a netip.AddrPort) bool {
	return slices.ContainsFunc(r.Mapped, func(m Mapping) bool { return m.Addr == a })
}

// elsewhere says that the host seems to have moved to another network since. r may
// be nil.
func (r *Report) elsewhere(now *Report) bool {
	differ := func(a, b netip.AddrPort) bool { return a.IsValid() && b.IsValid() && !sameHost(a, b) }
	return r != nil && differ(r.GlobalV4, now.GlobalV4)
}

// Kinds of NAT, for Report.NAT.
const (
	NATNone    = "none"    // the address outside is one of the host's own
	NATEasy    = "easy"    // every destination sees the same address and port
	NATHard    = "hard"    // each destination sees another one
	NATUnknown = "unknown" // too few answers to tell
	NATBlocked = "blocked" // no UDP answer at all
)

// NAT names the kind of NAT before the IPv4 socket, or before that of IPv6 when
// there is no IPv4. own reports whether an address is one of the host's; it may be
// nil, and so may r.
func (r *Report) NAT(own func(netip.Addr) bool) string {
	switch {
	case r == nil || !r.Asked && !r.UDP:
		return NATUnknown
	case !r.UDP:
		return NATBlocked
	}
	global, varies := r.GlobalV4, r.MappingVariesV4
	if !global.IsValid() {
		global, varies = r.GlobalV6, r.MappingVariesV6
	}
	switch {
	case own != nil && own(global.Addr()):
		return NATNone
	case varies.IsTrue():
		return NATHard
	case varies.IsFalse():
		return NATEasy
	}
	return NATUnknown
}

// Progress is told while a run goes on.
type Progress struct {
	// Text is one step, for people.
	Text string
}
