package daemon

import (
	"fmt"
	"net/netip"
)

// holder is the process that has a port; the zero value is unknown.
type holder struct {
	name string
	pid  int
}

// by words it as the end of a sentence.
func (h holder) by() string {
	if h.name == "" {
		return ""
	}
	return fmt.Sprintf(" by %s (process %d)", h.name, h.pid)
}

// forwards says how the configuration of a DNS server, known by the name of its process,
// names another one for a zone: the zone, the address, the port.
var forwards = map[string]string{
	"dnsmasq":         "server=/%[1]s/%[2]s#%[3]d",
	"pihole-FTL":      "server=/%[1]s/%[2]s#%[3]d",
	"AdGuardHome":     "[/%[1]s/]%[2]s:%[3]d as an upstream",
	"unbound":         `do-not-query-localhost: no, domain-insecure: "%[1]s", forward-zone: name: "%[1]s" forward-addr: %[2]s@%[3]d`,
	"named":           `zone "%[1]s" { type forward; forward only; forwarders { %[2]s port %[3]d; }; };`,
	"coredns":         "%[1]s { forward . %[2]s:%[3]d }",
	"pdns_recursor":   "forward-zones=%[1]s=%[2]s:%[3]d",
	"systemd-resolve": "DNS=%[2]s:%[3]d and Domains=~%[1]s",
}

// advice says what to add to the server that has port 53, so that it asks ours.
func (h holder) advice(zone string, at netip.AddrPort) string {
	line, ok := forwards[h.name]
	if !ok {
		line = "%[2]s, port %[3]d, for names in %[1]s"
	}
	return fmt.Sprintf("let that server ask this one: "+line+" (or stop it: port 53 is tried every 10 s)", zone, at.Addr(), at.Port())
}
