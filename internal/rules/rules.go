package rules

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Protocol numbers (IANA).
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// Rules is a set of permissions. The zero value permits nothing.
type Rules struct {
	all, icmp bool
	tcp, udp  []uint16 // sorted
}

// ErrBadRule is wrapped by errors about text that is no rule.
var ErrBadRule = errors.New("not a rule")

// Default is what a new peer may do: ssh and ping (S15).
func Default() Rules { return Rules{icmp: true, tcp: []uint16{22}} }

// Parse reads rules: "all", "icmp", "tcp/PORT", "udp/PORT" with ports 1 to
// 65535. One element may hold several, apart by spaces or commas. The error
// names the first that is none and wraps ErrBadRule.
func Parse(list []string) (Rules, error) {
	var r Rules
	for _, element := range list {
		for _, rule := range strings.FieldsFunc(element, func(c rune) bool { return c == ' ' || c == ',' }) {
			if err := r.add(strings.ToLower(rule)); err != nil {
				return Rules{}, err
			}
		}
	}
	return r, nil
}

func (r *Rules) add(rule string) error {
	switch rule {
	case "all":
		r.all = true
		return nil
	case "icmp":
		r.icmp = true
		return nil
	}
	proto, text, _ := strings.Cut(rule, "/")
	port, err := strconv.ParseUint(text, 10, 16)
	switch {
	case (proto == "tcp" || proto == "udp") && (err != nil || port == 0):
		return fmt.Errorf("%w: %q (a port is 1 to 65535)", ErrBadRule, rule)
	case proto == "tcp":
		r.tcp = insert(r.tcp, uint16(port))
	case proto == "udp":
		r.udp = insert(r.udp, uint16(port))
	default:
		return fmt.Errorf("%w: %q (rules are all, icmp, tcp/PORT, udp/PORT)", ErrBadRule, rule)
	}
	return nil
}

// insert adds a port to a sorted list that may be shared with other values.
func insert(ports []uint16, port uint16) []uint16 {
	at, found := slices.BinarySearch(ports, port)
	if found {
		return ports
	}
	return slices.Insert(slices.Clone(ports), at, port)
}

// Allows reports whether a packet of the IP protocol to the port may pass. The
// port counts for TCP and UDP only; icmp stands for ICMP and ICMPv6.
func (r Rules) Allows(proto uint8, port uint16) bool {
	if r.all {
		return true
	}
	switch proto {
	case protoTCP:
		_, found := slices.BinarySearch(r.tcp, port)
		return found
	case protoUDP:
		_, found := slices.BinarySearch(r.udp, port)
		return found
	case protoICMP, protoICMPv6:
		return r.icmp
	default:
		return false
	}
}

// All reports whether everything is permitted.
func (r Rules) All() bool { return r.all }

// Empty reports whether nothing is permitted.
func (r Rules) Empty() bool { return !r.all && !r.icmp && len(r.tcp) == 0 && len(r.udp) == 0 }

// Strings returns the rules in a fixed order, as Parse reads them; none is an
// empty list.
func (r Rules) Strings() []string {
	list := []string{}
	if r.all {
		return append(list, "all")
	}
	for _, port := range r.tcp {
		list = append(list, fmt.Sprintf("tcp/%d", port))
	}
	for _, port := range r.udp {
		list = append(list, fmt.Sprintf("udp/%d", port))
	}
	if r.icmp {
		list = append(list, "icmp")
	}
	return list
}

// String returns the rules with spaces between them, "nothing" for none.
func (r Rules) String() string {
	if r.Empty() {
		return "nothing"
	}
	return strings.Join(r.Strings(), " ")
}

// With returns what either r or more permits.
func (r Rules) With(more Rules) Rules {
	for _, rule := range more.Strings() {
		_ = r.add(rule) // it comes from a Rules
	}
	return r
}

// Without returns r less the rules of other. Single rules cannot be taken out
// of "all": the result is then r itself unless other is "all" too.
func (r Rules) Without(other Rules) Rules {
	if other.all {
		return Rules{}
	}
	return Rules{
		all: r.all, icmp: r.icmp && !other.icmp,
		tcp: slices.DeleteFunc(slices.Clone(r.tcp), func(p uint16) bool { return slices.Contains(other.tcp, p) }),
		udp: slices.DeleteFunc(slices.Clone(r.udp), func(p uint16) bool { return slices.Contains(other.udp, p) }),
	}
}
