package relay

import (
	"errors"
	"io"
)

// Sizes of a Reader's buffer. It starts small, because most connections of a
// relay are idle, and doubles while reads fill it: large reads are what makes
// many small frames cheap.
const (
	minReadBuffer = 4 << 10
	maxReadBuffer = 256 << 10
	// shrinkAfter reads in a row that used an eighth of the buffer halve it.
	shrinkAfter = 8
)

// Reader takes frames off a stream. It owns one buffer, which it reuses.
type Reader struct {
	r        io.Reader
	buf      []byte
	pos, end int // the bytes read and not yet given out
	small    int // reads in a row that left the buffer almost empty
}

// NewReader reads from r. Bytes that were read before, behind the upgrade, may
// be given as first; they are copied.
func NewReader(r io.Reader, first []byte) *Reader {
	buf := make([]byte, max(minReadBuffer, len(first)))
	return &Reader{r: r, buf: buf, end: copy(buf, first)}
}

// Next returns the next frame. The body is valid until Next is called again.
// The error is io.EOF only between two frames; it is final.
func (r *Reader) Next() (Type, []byte, error) {
	need := HeaderLen
	for {
		if r.end-r.pos >= HeaderLen {
			t, n, err := ParseHeader(r.buf[r.pos:r.end])
			if err != nil {
				return t, nil, err
			}
			need = HeaderLen + n
			if r.end-r.pos >= need {
				body := r.buf[r.pos+HeaderLen : r.pos+need]
				r.pos += need
				return t, body, nil
			}
		}
		if err := r.fill(need); err != nil {
			return 0, nil, err
		}
	}
}

// Buffered returns how many bytes were read and not yet given out.
func (r *Reader) Buffered() int { return r.end - r.pos }

// fill reads once, after making room for a frame of need bytes.
func (r *Reader) fill(need int) error {
	r.makeRoom(need)
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		if n > 0 {
			r.note(n)
			r.end += n
			return nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) && r.end > r.pos {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return io.ErrNoProgress
}

func (r *Reader) makeRoom(need int) {
	rest := r.buf[r.pos:r.end]
	size := len(r.buf)
	switch {
	case r.small >= shrinkAfter && size > minReadBuffer:
		size, r.small = size/2, 0
	case r.small < 0 && size < maxReadBuffer:
		size, r.small = size*2, 0
	}
	for size < max(need, len(rest)) {
		size *= 2
	}
	switch {
	case size != len(r.buf):
		buf := make([]byte, size)
		r.pos, r.end = 0, copy(buf, rest)
		r.buf = buf
	case len(rest) == 0:
		r.pos, r.end = 0, 0
	case r.pos+need > len(r.buf), r.pos > 0 && len(r.buf)-r.end < len(r.buf)/2:
		r.pos, r.end = 0, copy(r.buf, rest)
	}
}

// note remembers whether the buffer is too small (negative) or how often in a
// row it was far too large.
func (r *Reader) note(n int) {
	switch {
	case n == len(r.buf)-r.end:
		r.small = -1
	case n > len(r.buf)/8:
		r.small = 0
	default:
		r.small = max(r.small, 0) + 1
	}
}
