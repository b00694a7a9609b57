package records

const (
	// windowWords is the length of the ring in words of 64 numbers. One word is
	// always partly ahead, so the window reaches back 64 less than all of them.
	windowWords = 256
	windowBits  = windowWords * 64
)

// window remembers which of the last 16 384 numbers came (RFC 6479). The zero
// value has seen none.
type window struct {
	top  uint64 // the highest number taken, plus one; zero for none
	bits [windowWords]uint64
}

// seen says that a number came before, or is too old to tell.
func (w *window) seen(seq uint64) bool {
	if seq >= w.top {
		return false
	}
	if seq/64+windowWords <= (w.top-1)/64 {
		return true
	}
	return w.bits[seq/64%windowWords]&(1<<(seq%64)) != 0
}

// take notes a number; false if it was seen.
func (w *window) take(seq uint64) bool {
	if w.seen(seq) {
		return false
	}
	if seq >= w.top {
		last := uint64(0)
		fresh := w.top == 0
		if !fresh {
			last = (w.top - 1) / 64
		}
		if steps := seq/64 - last; steps >= windowWords {
			clear(w.bits[:])
		} else {
			for word := last + 1; word <= seq/64; word++ {
				w.bits[word%windowWords] = 0
			}
		}
		w.top = seq + 1
	}
	w.bits[seq/64%windowWords] |= 1 << (seq % 64)
	return true
}
