package records

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Errors of a Sealer.
var (
	// ErrExhausted says that the numbers of the connection are used up: it must
	// be replaced.
	ErrExhausted = errors.New("record numbers exhausted")
	// ErrKeyGone says that the number was reserved too long ago, or that the
	// Sealer is closed. The record is lost.
	ErrKeyGone = errors.New("the key of that record is gone")
)

// Sealer makes the records of one direction of one connection.
type Sealer struct {
	noCopy noCopy
	index  uint32
	suite  uint16
	shift  uint
	seq    atomic.Uint64
	keys   atomic.Pointer[sendKeys]

	mu     sync.Mutex // guards the fields below and the replacing of keys
	secret secret     // of the newest epoch
	closed bool
}

// sendKeys are those of the newest epoch and of the one before, for who is late.
type sendKeys struct {
	epoch     uint64
	now, past *key
}

// noCopy makes `go vet` refuse copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

func newSealer(cfg Config, d direction) (*Sealer, error) {
	s := &Sealer{index: cfg.Send, suite: cfg.Suite, shift: cfg.shift}
	var err error
	if s.secret, err = firstSecret(cfg.Master, d); err != nil {
		return nil, err
	}
	k, err := s.secret.key(s.suite)
	if err != nil {
		return nil, err
	}
	s.keys.Store(&sendKeys{now: k})
	return s, nil
}

// Reserve takes n numbers, which are used once whatever happens, and returns the
// first. The error is ErrExhausted.
func (s *Sealer) Reserve(n int) (uint64, error) {
	first := s.seq.Add(uint64(n)) - uint64(n)
	if first+uint64(n) > maxSeq {
		return 0, ErrExhausted
	}
	return first, nil
}

// Sent returns how many numbers were taken.
func (s *Sealer) Sent() uint64 { return s.seq.Load() }

// Seal appends the record of packet under a number from Reserve, which must not
// be used again. packet may lie HeaderLen bytes behind len(dst) in dst's own
// memory: it is then sealed in place. Errors: ErrKeyGone.
func (s *Sealer) Seal(dst []byte, seq uint64, packet []byte) ([]byte, error) {
	epoch := seq >> s.shift
	k, err := s.key(epoch)
	if err != nil {
		return dst, err
	}
	n := len(dst)
	if cap(dst) < n+HeaderLen {
		dst = append(dst, make([]byte, HeaderLen)...)
	}
	dst = dst[:n+HeaderLen]
	header(dst[n:], s.index, epoch, seq)
	nonce := nonces.Get().(*[nonceLen]byte)
	defer nonces.Put(nonce)
	k.nonce(nonce, seq)
	return k.aead.Seal(dst, nonce[:], packet, dst[n:n+HeaderLen]), nil
}

// key returns that of an epoch.
func (s *Sealer) key(epoch uint64) (*key, error) {
	ks := s.keys.Load()
	switch {
	case ks == nil:
		return nil, ErrKeyGone
	case epoch == ks.epoch:
		return ks.now, nil
	case epoch+1 == ks.epoch:
		return ks.past, nil
	case epoch < ks.epoch:
		return nil, ErrKeyGone
	}
	return s.advance(epoch)
}

// advance makes the keys up to that of an epoch.
func (s *Sealer) advance(epoch uint64) (*key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		ks := s.keys.Load()
		switch {
		case s.closed:
			return nil, ErrKeyGone
		case epoch == ks.epoch:
			return ks.now, nil
		case epoch+1 == ks.epoch:
			return ks.past, nil
		case epoch < ks.epoch:
			return nil, ErrKeyGone
		}
		if err := s.secret.advance(); err != nil {
			return nil, err
		}
		k, err := s.secret.key(s.suite)
		if err != nil {
			return nil, err
		}
		s.keys.Store(&sendKeys{epoch: ks.epoch + 1, now: k, past: ks.now})
	}
}

// Close wipes the keys: nothing can be sealed any more.
func (s *Sealer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	clear(s.secret[:])
	s.keys.Store(nil)
}
