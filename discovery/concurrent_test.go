package discovery_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// source answers after a while, or fails.
type source struct {
	after time.Duration
	name  string
	err   error
}

func (s source) Resolve(ctx context.Context, id identity.NodeID, found func(discovery.Item)) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.after):
	}
	if s.err == nil {
		found(discovery.Item{Addr: identity.NodeAddr{ID: id}, Source: s.name})
	}
	return s.err
}

// One that fails, or never ends, hides no answer of another.
func TestConcurrent(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name    string
		sources discovery.Concurrent
		found   []string
		took    time.Duration
		err     error
	}{
		{name: "none"},
		{name: "all, in the order of their answers", sources: discovery.Concurrent{source{after: 3 * time.Second, name: "slow"}, source{after: 1, name: "fast"}}, found: []string{"fast", "slow"}, took: 3 * time.Second},
		{name: "one fails first", sources: discovery.Concurrent{source{err: broken}, source{after: time.Second, name: "a"}}, found: []string{"a"}, took: time.Second},
		{name: "one fails later", sources: discovery.Concurrent{source{err: broken, after: 2 * time.Second}, source{after: time.Second, name: "a"}}, found: []string{"a"}, took: 2 * time.Second},
		{name: "one hangs", sources: discovery.Concurrent{source{after: time.Hour}, source{name: "a"}}, found: []string{"a"}, took: 10 * time.Second},
		{name: "all fail", sources: discovery.Concurrent{source{err: broken}, source{err: errors.New("other")}}, err: broken},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			var found []string
			err := tc.sources.Resolve(ctx, testID(t), func(i discovery.Item) { found = append(found, i.Source) })
			if len(found) != len(tc.found) || !errors.Is(err, tc.err) || time.Since(began) != tc.took {
				t.Errorf("%s: %q, %v after %v", tc.name, found, err, time.Since(began))
			}
			for i := range min(len(found), len(tc.found)) {
				if found[i] != tc.found[i] {
					t.Errorf("%s: %q", tc.name, found)
				}
			}
		})
	}
}
