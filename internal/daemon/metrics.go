package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/nodetun/nodetun/internal/metrics"
	"github.com/nodetun/nodetun/magicsock/relayactor"
)

// ErrMetricsPublic is returned for a metrics_addr that others can reach, unless
// metrics_public is set (S25).
var ErrMetricsPublic = errors.New("metrics and profiles tell much about this machine: use a loopback address, or set metrics_public = true")

// openMetrics binds the address for metrics, if there is to be one.
func (d *Daemon) openMetrics(context.Context) error {
	s := &d.cfg.Settings
	if s.MetricsAddr == "" {
		return nil
	}
	if host, _, err := net.SplitHostPort(s.MetricsAddr); !s.MetricsPublic {
		addr, isAddr := netip.ParseAddr(host)
		if err != nil || host != "localhost" && (isAddr != nil || !addr.IsLoopback()) {
			return fmt.Errorf("metrics_addr %s: %w", s.MetricsAddr, ErrMetricsPublic)
		}
	}
	l, err := net.Listen("tcp", s.MetricsAddr)
	if err != nil {
		return fmt.Errorf("metrics_addr: %w", err)
	}
	d.metrics = l
	d.undo.add(func() error { _ = l.Close(); return nil }) // closed already if it served
	return nil
}

// gather returns all figures. Where iroh counts the same, names are iroh's.
func (d *Daemon) gather() []metrics.Metric {
	list := d.peerMetrics(nil)
	list = d.socketMetrics(list)
	list = d.engineMetrics(list)
	return d.relayMetrics(list)
}

// peerMetrics count peers by state and by path.
func (d *Daemon) peerMetrics(list []metrics.Metric) []metrics.Metric {
	states, paths := map[string]int{}, map[string]int{}
	for _, p := range d.engine.Peers() {
		states[string(p.State)]++
		paths[p.Path]++
	}
	for _, state := range []string{"idle", "connecting", "connected", "unreachable", "refused"} {
		list = append(list, metrics.Gauge("nodetun_peers", float64(states[state]), "Peers by state.").With("state", state))
	}
	for _, path := range []string{"direct", "relay", "mixed", "none"} {
		list = append(list, metrics.Gauge("nodetun_paths", float64(paths[path]), "Peers by the path of their packets.").With("path", path))
	}
	return list
}

// engineMetrics are bytes by carrier, drops by reason and the TCP flows.
func (d *Daemon) engineMetrics(list []metrics.Metric) []metrics.Metric {
	c, f := d.engine.Carried(), d.engine.Flows()
	const sent, received = "Payload bytes sent, by what carried them.", "Payload bytes received, by what carried them."
	list = append(list,
		metrics.Counter("nodetun_sent_bytes", c.TxStreams, sent).With("carrier", "stream"),
		metrics.Counter("nodetun_sent_bytes", c.TxDatagrams, sent).With("carrier", "datagram"),
		metrics.Counter("nodetun_received_bytes", c.RxStreams, received).With("carrier", "stream"),
		metrics.Counter("nodetun_received_bytes", c.RxDatagrams, received).With("carrier", "datagram"),
		metrics.Gauge("nodetun_tcp_flows", float64(f.Established), "TCP connections of this host that are open."),
		metrics.Counter("nodetun_tcp_flows_accepted", f.Accepted, "TCP connections that programs of this host opened."),
		metrics.Counter("nodetun_tcp_flows_dialled", f.Dialled, "TCP connections that peers opened to this host."),
		metrics.Counter("nodetun_tcp_retransmits", f.Retransmits, "TCP segments sent to this host again."),
	)
	list = append(list, metrics.Counter("nodetun_flows_evicted", d.engine.Evicted(), "Flows of packets that lived and were forgotten for newer ones."))
	for reason, n := range d.engine.Dropped() {
		list = append(list, metrics.Counter("nodetun_dropped", n, "Packets and flows that went no further, by reason.").With("reason", reason))
	}
	return list
}

// socketMetrics are those of iroh's group magicsock, and more.
func (d *Daemon) socketMetrics(list []metrics.Metric) []metrics.Metric {
	m := d.endpoint.Socket().Metrics()
	count := func(name string, n uint64, help string) {
		list = append(list, metrics.Counter("magicsock_"+name, n, help))
	}
	count("send_ipv4", m.UDP4.TxBytes, "Bytes sent by UDP over IPv4.")
	count("send_ipv6", m.UDP6.TxBytes, "Bytes sent by UDP over IPv6.")
	count("send_relay", m.SendRelay, "Bytes of QUIC sent through relays.")
	count("recv_data_ipv4", m.UDP4.RxBytes, "Bytes received by UDP over IPv4.")
	count("recv_data_ipv6", m.UDP6.RxBytes, "Bytes received by UDP over IPv6.")
	count("recv_data_relay", m.RecvRelay, "Bytes of QUIC received through relays.")
	count("recv_datagrams", m.UDP4.RxPackets+m.UDP6.RxPackets, "UDP packets received.")
	count("recv_gro_datagrams", m.UDP4.RxGRO+m.UDP6.RxGRO, "Receives that brought several packets.")
	count("send_gso_datagrams", m.UDP4.TxGSO+m.UDP6.TxGSO, "Sends of several packets.")
	count("send_errors", m.SendErrors, "Packets that the system did not take.")
	count("send_no_route", m.NoRoute, "Batches for a node with no known path.")
	count("send_limited", m.Limited, "Batches cut short because the address had not proved itself.")
	count("send_too_large", m.TooLarge, "Packets larger than the path takes.")
	count("send_cut", m.SentCut, "Packets sent in two halves.")
	count("recv_cut", m.RecvCut, "Packets received in two halves.")
	count("send_coded", m.SentCoded, "Packets sent so that they can be repaired.")
	count("send_parity", m.SentParity, "Parity packets sent.")
	count("recv_coded", m.RecvCoded, "Packets received that could be repaired.")
	count("recv_parity", m.RecvParity, "Parity packets received.")
	count("recv_repaired", m.Repaired, "Packets lost on their way and repaired by parity.")
	count("recv_coded_dropped", m.CodedDropped, "Packets dropped so that the sender slows down, where ECN does not tell it to.")
	count("recv_coded_bad", m.BadCoded, "Coded packets and parity that no key opens.")
	count("send_again", m.Resent, "Packets sent again after an outage.")
	count("send_relay_dropped", m.RelayDropped, "Batches that a relay's queue did not take.")
	count("recv_unknown_source", m.UnknownSource, "Packets of QUIC from an address of no node.")
	count("recv_garbage", m.RecvGarbage, "Packets that are nothing known.")
	count("recv_stun", m.RecvSTUN, "STUN packets received.")
	count("sent_disco_ping", m.SentPing, "Pings sent.")
	count("sent_disco_pong", m.SentPong, "Pongs sent.")
	count("sent_disco_call_me_maybe", m.SentCallMeMaybe, "Call-me-maybes sent.")
	count("sent_disco_punch", m.SentPunch, "Pings sent to get through a hard NAT.")
	count("recv_disco", m.RecvDisco, "Packets of path discovery received.")
	count("recv_disco_ping", m.RecvPing, "Pings received.")
	count("recv_disco_pong", m.RecvPong, "Pongs received.")
	count("recv_disco_call_me_maybe", m.RecvCallMeMaybe, "Call-me-maybes received.")
	count("recv_disco_bad_key", m.BadKey, "Disco packets whose key is none.")
	count("recv_disco_bad_parse", m.BadDisco, "Disco packets that did not open or parse.")
	count("recv_disco_not_admitted", m.NotAdmitted, "Disco packets of strangers.")
	count("recv_disco_dropped", m.DiscoDropped, "Disco packets lost to a full queue.")
	count("relay_dials", m.Relays.Dials, "Connections to relays that were tried.")
	count("relay_dial_errors", m.Relays.DialErrors, "Connections to relays that failed.")
	count("recv_relay_not_admitted", m.Relays.NotAdmitted, "Frames of strangers that came through relays.")
	for reason, n := range m.PathChanges {
		list = append(list, metrics.Counter("magicsock_path_changes", n, "Changes of path, by reason.").With("reason", strings.ReplaceAll(string(reason), " ", "_")))
	}
	return list
}

// relayMetrics tell how it stands with each relay.
func (d *Daemon) relayMetrics(list []metrics.Metric) []metrics.Metric {
	for _, r := range d.endpoint.Socket().RelayStatus() {
		up, home := 0.0, 0.0
		if r.State == relayactor.StateConnected {
			up = 1
		}
		if r.Home {
			home = 1
		}
		list = append(list,
			metrics.Gauge("nodetun_relay_connected", up, "1 while connected with the relay.").With("relay", r.URL.String()),
			metrics.Gauge("nodetun_relay_home", home, "1 for the home relay.").With("relay", r.URL.String()),
			metrics.Gauge("nodetun_relay_rtt_seconds", r.RTT.Seconds(), "Round trip to the relay, 0 for not known.").With("relay", r.URL.String()),
		)
	}
	return list
}
