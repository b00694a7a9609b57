// Package outage is what it takes for connections to go on at once when a node
// is back that was away: for seconds behind a new address, for a weekend in a closed
// laptop. TCP and QUIC both remember an outage for too long. They have no way to know
// that it is over, but this program has: a pong came, or a packet. What they remember,
// and what is done about it:
//
//   - QUIC's probe timer doubles with each try, up to a minute. [Watch] keeps the last
//     packets to a node; when the node is heard, magicsock sends them again. QUIC there
//     drops what it had already, and its answer resets the timer here. nodemap says
//     when (Action Resend), since it knows pongs.
//   - QUIC's length of the path: the first answers are as late as the outage was long,
//     and for a minute QUIC sends as slowly as such a path would ask for. It forgets
//     that only on another path, and there is but one. So there are names for more. On
//     the side that was dialled, the node's packets come from its other mapped address
//     from then on ([Watch.Heard]), and quic-go starts anew by itself (RFC 9000 9.4).
//     On the side that dialled, the connection has to move: endpoint (renew.go) probes
//     a second path, the marked one, whose packets go the same way and arrive from yet
//     another mapped address ([Mark]). It needs a mark on the wire because quic-go as
//     server answers no PATH_CHALLENGE on the path in use.
//     quic-go would give ECN up with each such move; [ECN] sees to it that it does not.
//   - The host's TCP that sends to netstack, which holds 64 KiB of a flow for a peer that
//     is away, less if segments are small, and drops the rest. The host then tries again
//     less and less often, up to every two minutes. [Spill] takes in what the host sends
//     meanwhile, so that it waits for nothing.
//   - The same beyond what Spill holds. [Segments] keeps the last segment of such a
//     flow; an ICMP error that quotes it has the host take its doublings back (RFC 6069).
//
// quic-go 0.65 has no call for any of these: congestion control and the estimate of
// the round trip cannot be reached from outside, and a probe cannot be asked for.
// Without the first two, a transfer stands for up to a minute after an outage of one, then
// crawls; without the last two, ssh stands for up to two minutes (docs/nat.md has the
// figures with them).
//
// The package is pure: bytes and times in, bytes out. Only Spill has a timer and, while
// a write is held up, a goroutine. Watch and Mark take no lock; their user has one.
package outage
