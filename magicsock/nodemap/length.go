package nodemap

import "time"

// length is how long the path to a node is, and what QUIC believes of that: it keeps the shortest
// round trip of a connection for ever. When the path has become longer for good, each rise of
// the round trip looks like a queue to it, and slow start ends as soon as it begins.
type length struct {
	shortest time.Duration // since QUIC began to measure; 0: not known
	recent   [lengthPongs]time.Duration
	count    int // of recent
	bytes    int // payload since the last pong
}

const (
	lengthPongs = 4        // in a row, by the path in use, tell how long it is
	lengthQuiet = 64 << 10 // bytes between two of them, beyond which a queue may be our own
	lengthSlack = 10 * time.Millisecond
)

// pong takes in the round trip by the path in use, and reports whether the path has become longer
// by half for good.
func (l *length) pong(latency time.Duration) (longer bool) {
	quiet := l.bytes < lengthQuiet
	l.bytes = 0
	if l.shortest == 0 || latency < l.shortest {
		l.shortest = latency
	}
	if !quiet {
		l.count = 0
		return false
	}
	l.recent[l.count%lengthPongs] = latency
	if l.count++; l.count < lengthPongs {
		return false
	}
	least := l.recent[0]
	for _, r := range l.recent[1:] {
		least = min(least, r)
	}
	if least <= l.shortest*3/2+lengthSlack {
		return false
	}
	l.shortest, l.count = least, 0
	return true
}

// measured takes in the round trip of a pong by a direct address. Relays are pinged too rarely to
// tell.
func (m *Map) measured(n *node, p *path, latency time.Duration) {
	if n.choice.conn == ConnDirect && p == n.best && n.length.pong(latency) {
		m.add(Action{Kind: Lengthened, Node: n.id})
	}
}
