package relayactor

import (
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
)

const (
	// stepAside is how long a relay may take to connect before the next of the
	// list is dialled too.
	stepAside = 1500 * time.Millisecond
	// secondChance is how long the home may take to connect again after its
	// connection broke: it may have been a router in between that forgot it.
	secondChance = time.Second
	// returnAfter is how long a better relay must have been connected to become
	// home in place of one that works.
	returnAfter = 10 * time.Second
)

// Prefer tells which relays may be home, the best first. The first that can be
// reached is: when the home fails, the next is dialled at once and takes over as
// soon as it is connected, and those before it are tried for ever. A better one
// becomes home again when it has been connected for 10 s. An empty list means no
// home. Others keep their links until they are idle.
func (a *Actor) Prefer(order []identity.RelayURL) {
	a.mu.Lock()
	same := slices.Equal(a.prefs, order)
	a.prefs = slices.Clone(order)
	a.mu.Unlock()
	if !same {
		a.reconsider()
	}
}

// SetHome makes one relay the home, whether it can be reached or not; zero means
// none.
func (a *Actor) SetHome(url identity.RelayURL) {
	if url.IsZero() {
		a.Prefer(nil)
		return
	}
	a.Prefer([]identity.RelayURL{url})
}

// reconsider chooses the home, and dials what may become it.
func (a *Actor) reconsider() {
	now := time.Now()
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	old := a.home
	a.home = a.chooseLocked(now)
	home, former := a.links[a.home], a.links[old]
	changed := a.home != old
	a.mu.Unlock()
	a.rouse()
	if !changed {
		return
	}
	for _, l := range []*link{former, home} {
		if l != nil {
			l.touch()
			l.homeChanged()
		}
	}
	a.changed()
}

// chooseLocked returns the relay that is to be home. It makes the links of those
// that are to be tried, which are kept, and notes when to look again.
func (a *Actor) chooseLocked(now time.Time) identity.RelayURL {
	a.wakeAt = time.Time{}
	a.kept = a.kept[:0]
	present := a.links[a.home]
	works := present != nil && present.connected.Load() && slices.Contains(a.prefs, a.home) && !present.flood.now(now)
	for _, url := range a.prefs {
		l := a.links[url]
		if l == nil {
			l = a.addLocked(url, false)
			l.touch()
		}
		a.kept = append(a.kept, url)
		state, since := l.stateSince()
		if l.flood.now(now) {
			state = StateFailed // another is better, if there is one
		}
		var again time.Time
		switch {
		case url == a.home && works:
			return url
		case state == StateConnected && (!works || now.Sub(since) >= returnAfter):
			return url
		case state == StateConnected:
			again = since.Add(returnAfter)
		case state == StateConnecting && now.Sub(since) < stepAside:
			again = since.Add(stepAside)
		case url == a.home && l.lost() && now.Sub(since) < secondChance:
			again = since.Add(secondChance)
		}
		if again.IsZero() {
			continue
		}
		if a.wakeAt.IsZero() || again.Before(a.wakeAt) {
			a.wakeAt = again
		}
		if state != StateConnected && !works {
			break // it may still come
		}
	}
	switch {
	case slices.Contains(a.prefs, a.home):
		return a.home // nothing better
	case len(a.prefs) > 0:
		return a.prefs[0]
	}
	return identity.RelayURL{}
}

// keeps says that a link is not to end because nothing is sent.
func (a *Actor) keeps(l *link) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.keepsLocked(l)
}

func (a *Actor) keepsLocked(l *link) bool { return a.home == l.url || slices.Contains(a.kept, l.url) }

// replaced says that another relay than this one is home, which might be.
func (a *Actor) replaced(l *link) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.home != l.url && slices.Contains(a.prefs, l.url) && slices.Contains(a.prefs, a.home)
}

// lookAgain is how long Run may wait before the home is to be reconsidered.
func (a *Actor) lookAgain() time.Duration {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.wakeAt.IsZero() {
		return time.Hour
	}
	return max(0, time.Until(a.wakeAt))
}

// rouse has Run look at what is new.
func (a *Actor) rouse() {
	select {
	case a.start <- struct{}{}:
	default:
	}
}

// Home returns the home relay, zero if there is none.
func (a *Actor) Home() identity.RelayURL {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.home
}
