package discoveryserver

import (
	"context"
	"sync"
	"time"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// memory is a Store for tests and for trying things out.
type memory struct {
	mu   sync.RWMutex
	kept map[identity.NodeID]keptPacket // guarded by mu
}

type keptPacket struct {
	packet pkarr.Packet
	put    time.Time
}

// NewMemory returns a Store that ends with the process.
func NewMemory() Store { return &memory{kept: make(map[identity.NodeID]keptPacket)} }

func (m *memory) Put(_ context.Context, p pkarr.Packet) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, ok := m.kept[p.ID()]
	if ok {
		if err := compare(p, have.packet); err != nil {
			return err
		}
	}
	m.kept[p.ID()] = keptPacket{p, time.Now()}
	return nil
}

func (m *memory) Get(_ context.Context, id identity.NodeID) (pkarr.Packet, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	have, ok := m.kept[id]
	if !ok {
		return pkarr.Packet{}, ErrNotFound
	}
	return have.packet, nil
}

func (m *memory) Evict(_ context.Context, before time.Time) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, have := range m.kept {
		if have.put.Before(before) {
			delete(m.kept, id)
			n++
		}
	}
	return n, nil
}

func (*memory) Close() error { return nil }
