package daemon

import (
	"maps"
	"slices"
	"sync"

	"github.com/nodetun/nodetun/internal/localapi"
)

// troubles are what the user should know until it is well again, by what it is about.
// The zero value is ready for use.
type troubles struct {
	mu    sync.Mutex // guards about
	about map[string]localapi.Health
}

// Subjects of troubles.
const (
	aboutReload    = "reload"
	aboutSaving    = "saving"
	aboutState     = "state directory"
	aboutAddresses = addressesFile
	aboutInvites   = invitesFile
	aboutSalt      = saltFile
)

// set notes what is wrong with a subject and what helps, and reports whether that is new.
func (t *troubles) set(subject, what, fix string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.about == nil {
		t.about = make(map[string]localapi.Health)
	}
	before := t.about[subject]
	t.about[subject] = localapi.Health{Level: "warn", Text: what, Fix: fix}
	return before != t.about[subject]
}

// clear says that all is well again with a subject, and reports whether that is new.
func (t *troubles) clear(subject string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, was := t.about[subject]
	delete(t.about, subject)
	return was
}

// list returns all, in a fixed order.
func (t *troubles) list() []localapi.Health {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []localapi.Health
	for _, subject := range slices.Sorted(maps.Keys(t.about)) {
		list = append(list, t.about[subject])
	}
	return list
}
