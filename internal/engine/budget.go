package engine

import "sync/atomic"

// budgetSize is how many bytes may wait in buffers that flows can do without (S29): those
// that make fast flows fast, and what is held while a peer is away.
const budgetSize = 64 << 20

// budget counts such bytes, of all flows. When it is used up flows go on with small buffers.
type budget struct{ used atomic.Int64 }

// Take reserves n bytes, if there are as many.
func (b *budget) Take(n int) bool {
	if b.used.Add(int64(n)) <= budgetSize {
		return true
	}
	b.Give(n)
	return false
}

// Give returns n bytes.
func (b *budget) Give(n int) { b.used.Add(-int64(n)) }
