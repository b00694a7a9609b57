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
	aboutSalt      = saltFile
)

// set notes what is wrong with a subject and what helps.
func (t *troubles) set(subject, what, fix string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.about == nil {
		t.about = make(map[string]localapi.Health)
	}
	t.about[subject] = localapi.Health{Level: "warn", Text: what, Fix: fix}
}

// clear says that all is well again with a subject.
func (t *troubles) clear(subject string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.about, subject)
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
