package relayserver

import "github.com/nodetun/nodetun/internal/metrics"

// Metrics returns the counters under the names that iroh's relay gives them, and
// more.
func (s *Server) Metrics() []metrics.Metric {
	c := s.Counters()
	relay := func(name string, value uint64, help string) metrics.Metric {
		return metrics.Counter("relayserver_"+name, value, help)
	}
	stun := func(name string, value uint64, help string) metrics.Metric {
		return metrics.Counter("stun_"+name, value, help)
	}
	return []metrics.Metric{
		metrics.Gauge("relayserver_clients", float64(c.Clients), "Nodes connected now."),
		relay("accepts", c.Accepts, "Logins that were let in."),
		relay("websocket_accepts", c.WebSocketAccepts, "Logins by WebSocket."),
		relay("iroh1_accepts", c.Iroh1Accepts, "Logins by the protocol of iroh 1.x."),
		relay("disconnects", c.Disconnects, "Clients that left."),
		relay("login_failures", c.LoginFailures, "Logins that were bad, late or of another version."),
		relay("logins_denied", c.LoginsDenied, "Logins that access control refused."),
		relay("logins_replayable", c.LoginsReplayable, "Logins refused because they could be a replay."),
		relay("logins_limited", c.LoginsLimited, "Logins refused because too many came from one prefix."),
		relay("conns_limited", c.ConnsLimited, "Connections closed because too many were open."),
		relay("replaced_refused", c.ReplacedRefused, "Logins refused because their node is connected and alive."),
		relay("bytes_recv", c.BytesReceived, "Bytes of payload that clients sent."),
		relay("bytes_sent", c.BytesSent, "Bytes of frames written to clients."),
		relay("send_packets_recv", c.PacketsReceived, "Packets that clients sent."),
		relay("send_packets_sent", c.PacketsQueued, "Packets queued for their destination."),
		relay("send_packets_dropped", c.PacketsDropped, "Packets dropped from full queues."),
		relay("unknown_destination", c.UnknownDest, "Packets for a node that is not here."),
		relay("disco_packets_recv", c.DiscoReceived, "Packets of path discovery among these."),
		relay("got_ping", c.Pings, "Pings of clients; each was answered."),
		relay("got_pong", c.Pongs, "Pongs of clients."),
		relay("unknown_frames", c.UnknownFrames, "Frames that a client should not send."),
		relay("frames_rx_ratelimited", c.FramesThrottled, "Frames that came faster than a limit allows."),
		relay("conns_rx_ratelimited", c.ClientsThrottled, "Clients that sent faster than a limit allows."),
		stun("requests", c.STUNRequests, "STUN requests."),
		stun("ipv4_success", c.STUNAnswers4, "STUN requests answered by IPv4."),
		stun("ipv6_success", c.STUNAnswers6, "STUN requests answered by IPv6."),
		stun("bad_requests", c.STUNBad, "Packets that are no STUN request."),
		stun("limited", c.STUNLimited, "STUN requests not answered because too many came from one prefix."),
	}
}
