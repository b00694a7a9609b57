package relay

import (
	"slices"
	"sync"

	"github.com/nodetun/nodetun/identity"
)

// lane is a first-in first-out part of a Queue.
type lane struct {
	blocks    []*block
	frames    int // that wait
	bytes     int // that wait or are taken
	held      int // bytes of memory of the blocks that wait or are taken
	maxFrames int
	maxBytes  int
	maxHeld   int
	dropNew   bool // when full the new frame goes, not the oldest
	// parts are what waits of each node; nil for frames that belong to none.
	parts map[identity.NodeID]part
	crowd int // how many nodes it held at a time
}

// smallCrowd is how many nodes cost little memory.
const smallCrowd = 16

// part is what one node has in a lane, in frames that are not taken.
type part struct{ frames, bytes int }

func (l *lane) tail() *block {
	if len(l.blocks) == 0 {
		return nil
	}
	return l.blocks[len(l.blocks)-1]
}

// count adds frames and bytes of a node to what waits.
func (l *lane) count(key identity.NodeID, frames, bytes int) {
	l.frames += frames
	l.bytes += bytes
	l.countPart(key, frames, bytes)
}

func (l *lane) countPart(key identity.NodeID, frames, bytes int) {
	if l.parts == nil {
		return
	}
	p := l.parts[key]
	p.frames += frames
	p.bytes += bytes
	if p.frames > 0 {
		l.parts[key] = p
		l.crowd = max(l.crowd, len(l.parts))
		return
	}
	delete(l.parts, key)
	if len(l.parts) == 0 && l.crowd > smallCrowd { // a map keeps the memory of the most that it held
		l.parts, l.crowd = make(map[identity.NodeID]part), 0
	}
}

// A lane is crowded from seven eighths on. So much is shared by the nodes that have
// something in it; the rest is for those that come.
const (
	sharedPart  = 7
	sharedWhole = 8
)

func (l *lane) crowded() bool {
	return l.frames*sharedWhole > l.maxFrames*sharedPart || l.bytes*sharedWhole > l.maxBytes*sharedPart ||
		l.held*sharedWhole > l.maxHeld*sharedPart
}

// over says that a node would have more than its part if it had another frame of n bytes.
func (l *lane) over(key identity.NodeID, n int) bool {
	p, here := l.parts[key]
	nodes := len(l.parts)
	if !here {
		nodes++
	}
	return l.exceeds(part{p.frames + 1, p.bytes + n}, nodes)
}

// exceeds says that p is more than one of so many nodes may have: its part, and one frame in
// any case, if that is not longer. One alone may have all.
func (l *lane) exceeds(p part, nodes int) bool {
	if nodes == 1 {
		return false
	}
	return p.frames > 1 && p.frames*nodes*sharedWhole > l.maxFrames*sharedPart || p.bytes*nodes*sharedWhole > l.maxBytes*sharedPart
}

// fits says that there is room for a frame of n bytes, with blocks of a certain length.
func (l *lane) fits(n, block int) bool {
	if l.frames+1 > l.maxFrames || l.bytes+n > l.maxBytes {
		return false
	}
	if b := l.tail(); b != nil && len(b.buf)+n <= min(cap(b.buf), block) {
		return true
	}
	return l.held+l.nextBlock(n, block) <= l.maxHeld
}

// nextBlock is how large a block is that begins with a frame of n bytes.
func (l *lane) nextBlock(n, block int) int { return blockSizeFor(max(n, min(block, l.maxBytes))) }

// take removes the first block, whose bytes and memory count until it is written.
func (l *lane) take() *block {
	b := l.blocks[0]
	l.blocks = slices.Delete(l.blocks, 0, 1)
	l.frames -= b.frames
	if l.parts != nil {
		for rest := b.buf[b.head:]; len(rest) > 0; {
			var frame []byte
			frame, rest, _ = NextFrame(rest)
			l.countPart(keyOf(frame), -1, -len(frame))
		}
	}
	return b
}

// keyOf returns the node of a frame that holds a packet.
func keyOf(frame []byte) identity.NodeID { return identity.NodeID(frame[HeaderLen : HeaderLen+KeyLen]) }

// drop drops the oldest frame of the node that has most. It returns the block that is empty
// then, nil for none.
func (l *lane) drop() *block {
	if len(l.parts) < 2 {
		return l.dropOldest()
	}
	var most identity.NodeID
	size := 0
	for key, p := range l.parts {
		// Frames and bytes run out; each counts as the part of the whole that it is.
		if s := max(p.frames*l.maxBytes, p.bytes*l.maxFrames); s > size {
			most, size = key, s
		}
	}
	for i, b := range l.blocks {
		before := b.head
		for at := b.head; at < len(b.buf); {
			frame, _, _ := NextFrame(b.buf[at:])
			if keyOf(frame) == most {
				return l.cut(i, before, at, len(frame))
			}
			before, at = at, at+len(frame)
		}
	}
	return l.dropOldest() // not reached: who has something has a frame
}

// dropOldest drops the first frame of a lane that has one.
func (l *lane) dropOldest() *block {
	b := l.blocks[0]
	frame, _, _ := NextFrame(b.buf[b.head:])
	return l.cut(0, b.head, b.head, len(frame))
}

// cut takes the frame of n bytes at a place out of a block; before is where the one before it
// begins. It returns the block if that is empty then.
func (l *lane) cut(i, before, at, n int) *block {
	b := l.blocks[i]
	var key identity.NodeID
	if l.parts != nil {
		key = keyOf(b.buf[at : at+n])
	}
	l.count(key, -1, -n)
	if b.frames--; b.frames == 0 {
		l.blocks = slices.Delete(l.blocks, i, i+1)
		l.held -= cap(b.buf)
		return b
	}
	if at == b.head {
		b.head += n
		return nil
	}
	copy(b.buf[at:], b.buf[at+n:])
	b.buf = b.buf[:len(b.buf)-n]
	if b.last == at {
		b.last = before
	} else {
		b.last -= n
	}
	return nil
}

// blockSize holds two of the longest frames.
const blockSize = 17 << 13

// blockSizes are those that blocks come in: who reads slowly has little in each, which
// must not cost the memory of a large one.
var blockSizes = [...]int{4 << 10, 8 << 10, 16 << 10, 32 << 10, blockSize / 2, blockSize}

// blockSizeFor returns the smallest one that holds n bytes, the largest if none does.
func blockSizeFor(n int) int {
	for _, size := range blockSizes {
		if size >= n {
			return size
		}
	}
	return blockSize
}

// block is a piece of a lane's memory; it holds whole frames.
type block struct {
	buf    []byte
	head   int // start of the first frame
	last   int // start of the last frame
	frames int
}

// Pool keeps the blocks of many queues for reuse. Idle queues hold none. The
// zero value is ready; it is safe for concurrent use.
type Pool struct{ p [len(blockSizes)]sync.Pool }

// get returns a block of one of blockSizes.
func (p *Pool) get(size int) *block {
	if b, ok := p.of(size).Get().(*block); ok {
		return b
	}
	return &block{buf: make([]byte, 0, size)}
}

func (p *Pool) put(b *block) {
	*b = block{buf: b.buf[:0]}
	p.of(cap(b.buf)).Put(b)
}

func (p *Pool) of(size int) *sync.Pool { return &p.p[slices.Index(blockSizes[:], size)] }
