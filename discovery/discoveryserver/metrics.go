package discoveryserver

import (
	"sync/atomic"

	"github.com/nodetun/nodetun/internal/metrics"
)

// counters count what was asked.
type counters struct {
	puts struct{ stored, same, older, bad, limited atomic.Uint64 }
	gets struct{ found, missing, bad, limited atomic.Uint64 }

	dnsUDP, dnsTCP, dnsHTTP  atomic.Uint64
	dnsLimited, connsLimited atomic.Uint64
	dnsFound, dnsMissing     atomic.Uint64
	storeErrors, evicted     atomic.Uint64
}

// Metrics returns the counters.
func (s *Server) Metrics() []metrics.Metric {
	c := &s.count
	var list []metrics.Metric
	add := func(name, help, label, is string, value *atomic.Uint64) {
		m := metrics.Counter("discovery_"+name, value.Load(), help)
		if label != "" {
			m = m.With(label, is)
		}
		list = append(list, m)
	}
	const puts, gets, queries = "Packets put, by what became of them.", "Packets asked for.", "DNS queries, by transport."
	add("puts", puts, "outcome", "stored", &c.puts.stored)
	add("puts", puts, "outcome", "same", &c.puts.same)
	add("puts", puts, "outcome", "older", &c.puts.older)
	add("puts", puts, "outcome", "bad", &c.puts.bad)
	add("puts", puts, "outcome", "limited", &c.puts.limited)
	add("gets", gets, "outcome", "found", &c.gets.found)
	add("gets", gets, "outcome", "missing", &c.gets.missing)
	add("gets", gets, "outcome", "bad", &c.gets.bad)
	add("gets", gets, "outcome", "limited", &c.gets.limited)
	add("dns_queries", queries, "transport", "udp", &c.dnsUDP)
	add("dns_queries", queries, "transport", "tcp", &c.dnsTCP)
	add("dns_queries", queries, "transport", "https", &c.dnsHTTP)
	add("dns_found", "DNS queries about a name that exists.", "", "", &c.dnsFound)
	add("dns_missing", "DNS queries about a name that does not exist.", "", "", &c.dnsMissing)
	add("dns_limited", "DNS queries that came too fast.", "", "", &c.dnsLimited)
	add("conns_limited", "TCP connections refused because there were too many.", "", "", &c.connsLimited)
	add("store_errors", "Failures of the store.", "", "", &c.storeErrors)
	add("evicted", "Packets removed because nobody put them again.", "", "", &c.evicted)
	return list
}
