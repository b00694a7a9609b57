package nodemap

import (
	"time"

	"github.com/nodetun/nodetun/identity"
)

// RelayState tells that our link to a relay broke, or that it works again. While
// it is broken, no direct address is left for that relay.
func (m *Map) RelayState(now time.Time, url identity.RelayURL, up bool) []Action {
	m.begin()
	_, was := m.down[url]
	switch {
	case up == !was:
		return nil
	case up:
		delete(m.down, url)
	default:
		m.down[url] = now
	}
	for _, n := range m.list {
		if n.relay.url != url {
			continue
		}
		n.relay.down = m.down[url]
		if up && n.awake(now) && !n.settled(now) {
			n.relay.lastPing = time.Time{}
			m.pingRelay(now, n)
		}
		m.settle(now, n, ReasonDown)
	}
	return m.done()
}

// HomeChanged tells that others reach us through another relay now. Nodes in use
// are pinged through it and through their own, so that each side learns where the
// other is.
func (m *Map) HomeChanged(now time.Time, own identity.RelayURL) []Action {
	m.begin()
	for _, n := range m.list {
		if !n.awake(now) || m.limited(n) {
			continue
		}
		if !n.relay.url.IsZero() {
			m.askRelay(now, n, n.relay.url)
		}
		if !own.IsZero() && own != n.relay.url {
			m.askRelay(now, n, own)
		}
		m.settle(now, n, "")
	}
	return m.done()
}

// Active says that payload of some node went or came within the last 45 s.
func (m *Map) Active(now time.Time) bool {
	for _, n := range m.list {
		if n.active(now) {
			return true
		}
	}
	return false
}
