// Package nodemap decides, for every node, which path a packet takes: a direct
// UDP address, a relay, or both. It is the pure heart of magicsock: no socket,
// no goroutine, no clock and no randomness of its own. Time goes in with every
// call, [Action] values come out, and whoever holds the sockets carries them
// out in the order given.
//
// It is not a codec (magicsock/disco), it sends nothing, and it does not choose
// relays (magicsock/relayactor) or find own addresses (magicsock/netcheck).
//
// # How it is driven
//
//	Route(now, mapped, …)      before each QUIC send: where it goes
//	Received(now, from, …)     for each QUIC packet or batch that arrived
//	HandlePing, HandlePong, HandleCallMeMaybe   for each disco message that opened
//	Tick(now)                  when the time of Next has come
//
// Next is a plain field read. It may move to an earlier time with any call, also
// with a Route or Received that returned no action, so the driver compares it
// with its timer after each call. A zero time means that nothing is due.
//
// A Map is not safe for concurrent use; magicsock guards it with one mutex. The
// returned slice of actions is reused: it is valid until the next call of any
// method, so copy it before the mutex is given away. Actions of one call are
// carried out in order and before the payload that Route was asked for, so
// that a ping opens the far node map before the first QUIC packet arrives there.
//
// Mapped and Add mark a node as one that we want to reach, which lifts the limits
// for strangers (S6); MappedOf only looks.
//
// # Paths
//
// A direct address is usable when this node owns it in the ip:port index, a pong
// to a ping of ours to that very address came within the last 6.5 s (S7, S8) and
// one such ping was padded to 1200 bytes of UDP payload. Pings are padded while
// payload is sent and to addresses whose last padded pong is older than 60 s, first
// ones included, so a new path is qualified in one round trip; an address that
// does not answer gets padded and small pings by turns, which tells a small path
// from a dead one.
// Only a ping back to an address that sent us a small ping is small at first, so
// that a replayed ping never draws more bytes than it has.
//
// Only pongs renew trust. While payload is sent the address is pinged at least
// every 3 s, an idle session every 5 s for 45 s after its last payload, and then
// nothing is sent at all.
//
// A path is watched while it carries payload. Nothing heard on it 0.5 s after a
// packet: a padded ping, repeated every second. That ping unanswered for twice
// the latency (0.25 to 1 s): payload goes over the relay too (mixed), the last
// packets are sent again ([Resend]) and every other address is pinged. 3 s after
// the packet: the path is left until a pong comes. Pings without a pong count
// the same even when payload still arrives, which finds the path that died in
// our direction only.
//
// While payload goes by the relay all addresses are pinged and a call-me-maybe is
// sent every 5 s. An address that never answered is given up after 10 pings for
// 10 minutes (S9); two kinds stay in the game while payload is sent: addresses
// that the user gave, and, with a paired node that is alive, eight of the given-up
// ones a round with small pings, so that the path is direct within seconds when
// UDP comes back.
//
// Without any usable path and with no relay known, one candidate address gets
// at most three times the bytes that came from it and ten packets in 5 s (S7).
//
// While payload goes directly the relay is pinged every 30 s, so that it is ready.
// A direct address is not left for a relay whose link has been down for 2 s.
//
// How large packets may be is found out by pings of their size (room.go), hard
// NATs are got through by many sockets and ports (punch.go). Both only with nodes
// that announced what it takes.
//
// # Deviations from iroh-net 0.28.1
//
// Received payload does not renew trust; an untrusted address never carries bulk
// beside a relay; a call-me-maybe that does not name the present address makes it
// suspect instead of dropping it; latency of the present address is averaged and
// a change needs a gain of 20 % and 0.5 ms; the relay path is pinged while it
// carries payload; peers are never pruned. A peer sees none of it but the pings.
package nodemap
