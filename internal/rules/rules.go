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
	tcp, udp  ports
}

// ErrBadRule is wrapped by errors about text that is no rule.
var ErrBadRule = errors.New("not a rule")

// services are names for what they usually are (IANA, and for mosh its manual).
var services = map[string]string{
	"ssh": "tcp/22", "http": "tcp/80", "https": "tcp/443", "dns": "tcp/53 udp/53", "mosh": "udp/60000-61000", "ping": "icmp",
	"rdp": "tcp/3389", "vnc": "tcp/5900", "smb": "tcp/445", "nfs": "tcp/2049", "rsync": "tcp/873", "git": "tcp/9418",
	"postgres": "tcp/5432", "mysql": "tcp/3306", "redis": "tcp/6379",
}

// Default is what a new peer may do: ssh and ping (S15).
func Default() Rules { return Rules{icmp: true, tcp: ports{{22, 22}}} }

// Parse reads rules: "all", "icmp", "tcp/PORT", "udp/PORT", where PORT is 1 to 65535 or a
// range such as 8000-8080, and names of services such as "ssh". One element may hold
// several, apart by spaces or commas. The error names the first that is none and wraps
// ErrBadRule.
func Parse(list []string) (Rules, error) {
	var r Rules
	for _, element := range list {
		for _, rule := range words(element) {
			if err := r.add(strings.ToLower(rule)); err != nil {
				return Rules{}, err
			}
		}
	}
	return r, nil
}

// words takes several rules apart.
func words(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == ',' })
}

func (r *Rules) add(rule string) error {
	if means, ok := services[rule]; ok {
		for _, one := range words(means) {
			if err := r.add(one); err != nil {
				return err
			}
		}
		return nil
	}
	switch rule {
	case "all":
		r.all = true
		return nil
	case "icmp":
		r.icmp = true
		return nil
	}
	proto, text, _ := strings.Cut(rule, "/")
	if proto != "tcp" && proto != "udp" {
		return fmt.Errorf("%w: %q (rules are all, icmp, tcp/PORT, udp/PORT, tcp/FIRST-LAST, and names such as ssh or https)", ErrBadRule, rule)
	}
	s, err := parseSpan(text)
	if err != nil {
		return fmt.Errorf("%w: %q (%w)", ErrBadRule, rule, err)
	}
	if proto == "tcp" {
		r.tcp = r.tcp.with(s)
	} else {
		r.udp = r.udp.with(s)
	}
	return nil
}

// span is a range of ports, both ends in it.
type span struct{ first, last uint16 }

func parseSpan(text string) (s span, err error) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	var ends [2]uint64
	for i, end := range []string{first, last} {
		if ends[i], err = strconv.ParseUint(end, 10, 16); err != nil || ends[i] == 0 {
			return s, errors.New("a port is 1 to 65535")
		}
	}
	if ends[0] > ends[1] {
		return s, errors.New("a range begins with the lower port")
	}
	return span{uint16(ends[0]), uint16(ends[1])}, nil
}

func (s span) String() string {
	if s.first == s.last {
		return strconv.Itoa(int(s.first))
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

// ports is a set of ports: spans in their order, which do not overlap. It is never changed,
// so that values may share it.
type ports []span

// with adds a span. Those that only touch stay as they were written.
func (p ports) with(s span) ports {
	var all ports
	for _, old := range p {
		switch {
		case old.last < s.first || s.last < old.first:
			all = append(all, old)
		default:
			s = span{min(s.first, old.first), max(s.last, old.last)}
		}
	}
	at, _ := slices.BinarySearchFunc(all, s, func(a, b span) int { return int(a.first) - int(b.first) })
	return slices.Insert(all, at, s)
}

// without takes a span away.
func (p ports) without(s span) (rest ports) {
	for _, old := range p {
		if old.last < s.first || s.last < old.first {
			rest = append(rest, old)
			continue
		}
		if old.first < s.first {
			rest = append(rest, span{old.first, s.first - 1})
		}
		if s.last < old.last {
			rest = append(rest, span{s.last + 1, old.last})
		}
	}
	return rest
}

func (p ports) has(port uint16) bool {
	at, found := slices.BinarySearchFunc(p, port, func(s span, port uint16) int { return int(s.first) - int(port) })
	return found || at > 0 && port <= p[at-1].last
}

// Allows reports whether a packet of the IP protocol to the port may pass. The
// port counts for TCP and UDP only; icmp stands for ICMP and ICMPv6.
func (r Rules) Allows(proto uint8, port uint16) bool {
	if r.all {
		return true
	}
	switch proto {
	case protoTCP:
		return r.tcp.has(port)
	case protoUDP:
		return r.udp.has(port)
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
	for _, s := range r.tcp {
		list = append(list, "tcp/"+s.String())
	}
	for _, s := range r.udp {
		list = append(list, "udp/"+s.String())
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
	r.all, r.icmp = r.all || more.all, r.icmp || more.icmp
	for _, s := range more.tcp {
		r.tcp = r.tcp.with(s)
	}
	for _, s := range more.udp {
		r.udp = r.udp.with(s)
	}
	return r
}

// Without returns r less the rules of other. Single rules cannot be taken out
// of "all": the result is then r itself unless other is "all" too.
func (r Rules) Without(other Rules) Rules {
	if other.all {
		return Rules{}
	}
	r.icmp = r.icmp && !other.icmp
	for _, s := range other.tcp {
		r.tcp = r.tcp.without(s)
	}
	for _, s := range other.udp {
		r.udp = r.udp.without(s)
	}
	return r
}

// Covers reports whether r permits all that other does.
func (r Rules) Covers(other Rules) bool {
	return r.all || !other.all && other.Without(r).Empty()
}

// Which returns the rules of r by which it permits what other does.
func (r Rules) Which(other Rules) Rules {
	if r.all {
		return Rules{all: true}
	}
	touching := func(mine, theirs ports) (list ports) {
		for _, s := range mine {
			if !slices.Equal(theirs.without(s), theirs) {
				list = append(list, s)
			}
		}
		return list
	}
	return Rules{icmp: r.icmp && other.icmp, tcp: touching(r.tcp, other.tcp), udp: touching(r.udp, other.udp)}
}
