package routing

import (
	"maps"
	"sync/atomic"
)

// shards is a map read without locks: 256 immutable maps, each behind an
// atomic pointer, chosen by hash. A change copies one of them. Writers need a
// lock of their own.
type shards[K comparable, V any] struct {
	hash func(K) uint8
	maps [256]atomic.Pointer[map[K]V]
}

func (s *shards[K, V]) get(k K) (v V, ok bool) {
	m := s.maps[s.hash(k)].Load()
	if m == nil {
		return v, false
	}
	v, ok = (*m)[k]
	return v, ok
}

func (s *shards[K, V]) set(k K, v V) {
	s.change(k, func(m map[K]V) { m[k] = v })
}

func (s *shards[K, V]) delete(k K) {
	s.change(k, func(m map[K]V) { delete(m, k) })
}

func (s *shards[K, V]) change(k K, f func(map[K]V)) {
	p := &s.maps[s.hash(k)]
	next := make(map[K]V)
	if old := p.Load(); old != nil {
		maps.Copy(next, *old)
	}
	f(next)
	p.Store(&next)
}
