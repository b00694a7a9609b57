package relayserver

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/atomicfile"
	"github.com/nodetun/nodetun/internal/ratelimit"
)

// How many nodes are remembered: those that were seen on two days, and those that were not
// yet. Newcomers displace newcomers only, and no more than newPerDay are taken of one prefix
// within 24 hours, so that nobody makes a relay forget by logging in with many keys.
const (
	maxRegulars  = 1 << 18
	maxNewcomers = 1 << 16
	newPerDay    = 1000
)

// spareLines is how many lines more than twice those that are needed the file may have.
const spareLines = 1024

// proven remembers the nodes that answered a challenge at some time: what could be
// replayed is no login of theirs any more (S2). With a file it survives a restart.
type proven struct {
	connected func(identity.NodeID) bool // those are not displaced
	arrivals  *ratelimit.Table           // of newcomers, by prefix

	mu        sync.Mutex // guards the fields below
	regulars  nodesByAge[struct{}]
	newcomers nodesByAge[string] // and the day, as dayFormat has it

	// fileMu guards the fields below; it is taken before mu. Looking a node up never
	// waits for the disk.
	fileMu sync.Mutex
	path   string   // empty: in memory only
	file   *os.File // nil: closed, or none
	lines  int
}

// nodesByAge has those first that were not seen for longest.
type nodesByAge[V any] = *simplelru.LRU[identity.NodeID, V]

// dayFormat is how days stand in the file, in UTC. A line is the NodeID of a regular, or
// that of a newcomer, a blank and the day.
const dayFormat = time.DateOnly

// openProven reads the file, which need not exist. An empty path means memory.
func openProven(path string, connected func(identity.NodeID) bool) (*proven, error) {
	p := &proven{connected: connected, arrivals: ratelimit.NewTableOver(newPerDay, 24*time.Hour), path: path}
	var err error
	if p.regulars, err = simplelru.NewLRU[identity.NodeID, struct{}](maxRegulars, nil); err != nil {
		return nil, err
	}
	if p.newcomers, err = simplelru.NewLRU[identity.NodeID, string](maxNewcomers, nil); err != nil {
		return nil, err
	}
	if path == "" {
		return p, nil
	}
	if err = p.read(); err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = p.rewrite()
	}
	if err != nil {
		return nil, fmt.Errorf("relay logins: %w", err)
	}
	return p, nil
}

// read enters what the file holds.
func (p *proven) read() error {
	data, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		text, day, isNew := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		id, err := identity.ParseNodeID(text)
		switch {
		case err != nil: // the power failed
		case !isNew:
			p.newcomers.Remove(id)
			p.regulars.Add(id, struct{}{})
		case !p.regulars.Contains(id):
			p.newcomers.Add(id, day)
		}
	}
	return nil
}

// add remembers a node that proved itself from an address.
func (p *proven) add(id identity.NodeID, from netip.Addr, now time.Time) error {
	line := p.note(id, from, now)
	if line == "" {
		return nil
	}
	p.fileMu.Lock()
	defer p.fileMu.Unlock()
	if p.file == nil {
		return nil
	}
	if _, err := fmt.Fprintln(p.file, line); err != nil {
		return err
	}
	p.lines++
	if p.lines > 2*p.len()+spareLines {
		return p.rewrite()
	}
	return nil
}

// note enters a node, and returns the line that says so; empty if nothing changed.
func (p *proven) note(id identity.NodeID, from netip.Addr, now time.Time) (line string) {
	today := now.UTC().Format(dayFormat)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.regulars.Get(id); ok {
		return ""
	}
	switch day, ok := p.newcomers.Get(id); {
	case ok && day == today:
		return ""
	case ok:
		if !displace(p.regulars, maxRegulars, p.connected) {
			return ""
		}
		p.newcomers.Remove(id)
		p.regulars.Add(id, struct{}{})
		return id.String()
	case !p.arrivals.Allow(from, now), !displace(p.newcomers, maxNewcomers, p.connected):
		return ""
	}
	p.newcomers.Add(id, today)
	return id.String() + " " + today
}

// displace makes room for one more, and reports false if all that are there are connected.
func displace[V any](nodes nodesByAge[V], limit int, connected func(identity.NodeID) bool) bool {
	for range limit {
		if nodes.Len() < limit {
			return true
		}
		id, _, _ := nodes.GetOldest()
		if connected(id) {
			nodes.Get(id) // seen just now
			continue
		}
		nodes.Remove(id)
	}
	return nodes.Len() < limit
}

func (p *proven) has(id identity.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.regulars.Contains(id) || p.newcomers.Contains(id)
}

func (p *proven) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.regulars.Len() + p.newcomers.Len()
}

// rewrite leaves in the file what is remembered, and opens it for more. It is called with
// fileMu held.
func (p *proven) rewrite() error {
	text, lines := p.text()
	if err := atomicfile.Write(p.path, text, 0o600); err != nil {
		return err
	}
	file, err := os.OpenFile(p.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if p.file != nil {
		_ = p.file.Close()
	}
	p.file, p.lines = file, lines
	return nil
}

// text is the file as short as can be, those that were not seen for longest first.
func (p *proven) text() (text []byte, lines int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b bytes.Buffer
	for _, id := range p.regulars.Keys() {
		fmt.Fprintln(&b, id)
	}
	for _, id := range p.newcomers.Keys() {
		day, _ := p.newcomers.Peek(id)
		fmt.Fprintln(&b, id, day)
	}
	return b.Bytes(), p.regulars.Len() + p.newcomers.Len()
}

func (p *proven) close() {
	p.fileMu.Lock()
	defer p.fileMu.Unlock()
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}
