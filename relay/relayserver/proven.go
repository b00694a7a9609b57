package relayserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/nodetun/nodetun/identity"
)

// maxProven is how many nodes are remembered.
const maxProven = 1 << 16

// proven remembers the nodes that answered a challenge at some time: what could be
// replayed is no login of theirs any more (S2). With a file it survives a restart.
type proven struct {
	mu    sync.Mutex // guards the fields below
	nodes *simplelru.LRU[identity.NodeID, struct{}]
	file  *os.File // nil: in memory only
}

// openProven reads the file, which need not exist, and leaves it shorter if it
// names more nodes than are remembered. An empty path means memory.
func openProven(path string) (*proven, error) {
	nodes, err := simplelru.NewLRU[identity.NodeID, struct{}](maxProven, nil)
	if err != nil {
		return nil, err
	}
	p := &proven{nodes: nodes}
	if path == "" {
		return p, nil
	}
	tidy, err := p.read(path)
	if err != nil {
		return nil, fmt.Errorf("relay logins: %w", err)
	}
	mode := os.O_APPEND
	if !tidy {
		mode = os.O_TRUNC
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("relay logins: %w", err)
	}
	if p.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|mode, 0o600); err != nil {
		return nil, fmt.Errorf("relay logins: %w", err)
	}
	for _, id := range nodes.Keys() {
		if !tidy && err == nil {
			err = p.write(id)
		}
	}
	return p, err
}

// read enters what the file holds, one NodeID a line. It is not tidy when it is
// much longer than need be, or its last line was cut off as the power failed.
func (p *proven) read(path string) (tidy bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	lines := 0
	for line := range strings.Lines(string(data)) {
		lines++
		if id, err := identity.ParseNodeID(strings.TrimSuffix(line, "\n")); err == nil {
			p.nodes.Add(id, struct{}{})
		}
	}
	return lines <= 2*maxProven && (lines == 0 || data[len(data)-1] == '\n'), nil
}

func (p *proven) write(id identity.NodeID) error {
	_, err := fmt.Fprintln(p.file, id)
	return err
}

// add remembers a node.
func (p *proven) add(id identity.NodeID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.nodes.Contains(id)
	p.nodes.Add(id, struct{}{})
	if known || p.file == nil {
		return nil
	}
	return p.write(id)
}

func (p *proven) has(id identity.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes.Contains(id)
}

func (p *proven) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}
