package relayserver

import "sync/atomic"

// Counters count since New.
type Counters struct {
	Accepts          uint64 // logins that were let in
	WebSocketAccepts uint64 // of these by WebSocket
	Iroh1Accepts     uint64 // of these by the protocol of iroh 1.x
	Disconnects      uint64
	Clients          uint64 // logged in now
	LoginFailures    uint64 // bad, late or of another version
	LoginsDenied     uint64 // by Access
	LoginsReplayable uint64 // refused because a challenge was to be answered
	LoginsLimited    uint64 // too many from one prefix
	ConnsLimited     uint64 // too many connections from one prefix
	ReplacedRefused  uint64 // logins in the place of a client that is alive

	BytesReceived   uint64 // of frames' payloads
	BytesSent       uint64 // of whole frames
	PacketsReceived uint64
	DiscoReceived   uint64 // of these disco
	PacketsQueued   uint64
	UnknownDest     uint64 // packets for nobody here
	PacketsDropped  uint64 // from full queues
	Pings, Pongs    uint64 // received
	UnknownFrames   uint64 // legal frames that a client should not send

	FramesThrottled  uint64 // reads that came faster than a limit allows, and were waited after
	ClientsThrottled uint64 // that sent such

	STUNRequests, STUNAnswers4, STUNAnswers6, STUNBad, STUNLimited uint64
}

// counters are the live form of Counters.
type counters struct {
	accepts, webSocketAccepts, disconnects, loginFailures, loginsDenied atomic.Uint64
	loginsLimited, connsLimited, loginsReplayable, replacedRefused      atomic.Uint64
	bytesReceived, bytesSent, packetsReceived, discoReceived            atomic.Uint64
	packetsQueued, unknownDest, packetsDropped                          atomic.Uint64
	pings, pongs, unknownFrames, iroh1Accepts                           atomic.Uint64
	framesThrottled, clientsThrottled, acceptsFailed                    atomic.Uint64
	stunRequests, stunAnswers4, stunAnswers6, stunBad, stunLimited      atomic.Uint64
}

// Counters returns what was counted since New.
func (s *Server) Counters() Counters {
	c := &s.count
	return Counters{
		Accepts: c.accepts.Load(), WebSocketAccepts: c.webSocketAccepts.Load(),
		Iroh1Accepts: c.iroh1Accepts.Load(),
		Disconnects:  c.disconnects.Load(), Clients: uint64(s.registry.len()),
		LoginFailures: c.loginFailures.Load(), LoginsDenied: c.loginsDenied.Load(),
		LoginsReplayable: c.loginsReplayable.Load(),
		LoginsLimited:    c.loginsLimited.Load(), ConnsLimited: c.connsLimited.Load(),
		ReplacedRefused: c.replacedRefused.Load(),
		BytesReceived:   c.bytesReceived.Load(), BytesSent: c.bytesSent.Load(),
		PacketsReceived: c.packetsReceived.Load(), DiscoReceived: c.discoReceived.Load(),
		PacketsQueued: c.packetsQueued.Load(), UnknownDest: c.unknownDest.Load(),
		PacketsDropped: c.packetsDropped.Load() + s.registry.dropped(),
		Pings:          c.pings.Load(), Pongs: c.pongs.Load(), UnknownFrames: c.unknownFrames.Load(),
		FramesThrottled: c.framesThrottled.Load(), ClientsThrottled: c.clientsThrottled.Load(),
		STUNRequests: c.stunRequests.Load(), STUNAnswers4: c.stunAnswers4.Load(), STUNAnswers6: c.stunAnswers6.Load(),
		STUNBad: c.stunBad.Load(), STUNLimited: c.stunLimited.Load(),
	}
}
