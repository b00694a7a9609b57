package records

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// farEpochs is how far ahead of the newest epoch a record is tried at all.
	farEpochs = 8
	// farTrials is how many such tries a second are made, since each costs the
	// making of keys.
	farTrials = 20
	// maxFailures ends a connection (RFC 9001 section 6.6).
	maxFailures = 1 << 36
)

// Errors of Open. All but ErrForged mean that no key was touched.
var (
	ErrShort    = errors.New("too short or too long for a record")
	ErrEpoch    = errors.New("the epoch of the record has no key")
	ErrReplay   = errors.New("a record seen before, or too old to tell")
	ErrForged   = errors.New("the record does not open")
	ErrTooMany  = errors.New("too many records did not open: the connection must end")
	errNoOpener = errors.New("closed")
)

// Failures counts records that were dropped, by kind.
type Failures struct{ Short, Epoch, Replay, Forged uint64 }

// Opener opens the records of one direction of one connection.
type Opener struct {
	noCopy noCopy
	suite  uint16
	shift  uint
	keys   atomic.Pointer[receiveKeys]
	fail   struct{ short, epoch, replay, forged atomic.Uint64 }

	mu     sync.Mutex // guards the fields below and the replacing of keys
	secret secret     // of the epoch after the newest
	window window
	trials struct {
		second int64
		count  int
	}
}

// receiveKeys are those around the newest epoch that opened anything. past is
// nil in epoch 0.
type receiveKeys struct {
	epoch           uint64
	past, now, next *key
}

func newOpener(cfg Config, d direction) (*Opener, error) {
	o := &Opener{suite: cfg.Suite, shift: cfg.shift}
	first, err := firstSecret(cfg.Master, d)
	if err != nil {
		return nil, err
	}
	now, err := first.key(o.suite)
	if err != nil {
		return nil, err
	}
	if err := first.advance(); err != nil {
		return nil, err
	}
	next, err := first.key(o.suite)
	if err != nil {
		return nil, err
	}
	o.secret = first
	o.keys.Store(&receiveKeys{now: now, next: next})
	return o, nil
}

// Open appends the packet of a record to dst. record is read only; dst may be
// its ciphertext's own memory (record[HeaderLen:HeaderLen]). now paces costly
// tries.
func (o *Opener) Open(dst, record []byte, now time.Time) ([]byte, error) {
	if len(record) < Overhead || len(record) > MaxLen {
		o.fail.short.Add(1)
		return dst, ErrShort
	}
	seq := binary.BigEndian.Uint64(record[4:])
	epoch := seq >> o.shift
	k, err := o.key(epoch, seq, record[0], now)
	if err != nil {
		return dst, err
	}
	nonce := nonces.Get().(*[nonceLen]byte)
	defer nonces.Put(nonce)
	k.nonce(nonce, seq)
	packet, err := k.aead.Open(dst, nonce[:], record[HeaderLen:], record[:HeaderLen])
	if err != nil {
		if o.fail.forged.Add(1) >= maxFailures {
			return dst, ErrTooMany
		}
		return dst, ErrForged
	}
	return o.accept(dst, packet, epoch, seq)
}

// key finds the key to try a record with, without any computing for what cannot
// be good.
func (o *Opener) key(epoch, seq uint64, first byte, now time.Time) (*key, error) {
	ks := o.keys.Load()
	if ks == nil {
		return nil, errNoOpener
	}
	if byte(epoch)&epochLowMask != first&epochLowMask || seq >= maxSeq {
		o.fail.epoch.Add(1)
		return nil, ErrEpoch
	}
	o.mu.Lock()
	seen := o.window.seen(seq)
	o.mu.Unlock()
	if seen {
		o.fail.replay.Add(1)
		return nil, ErrReplay
	}
	var k *key
	switch {
	case epoch == ks.epoch:
		k = ks.now
	case epoch+1 == ks.epoch:
		k = ks.past
	case epoch == ks.epoch+1:
		k = ks.next
	case epoch > ks.epoch && epoch <= ks.epoch+farEpochs:
		k = o.far(ks.epoch, epoch, now)
	}
	if k == nil {
		o.fail.epoch.Add(1)
		return nil, ErrEpoch
	}
	return k, nil
}

// far makes the key of an epoch further ahead, a few times a second; nil
// otherwise.
func (o *Opener) far(newest, epoch uint64, now time.Time) *key {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ks := o.keys.Load(); ks == nil || ks.epoch != newest {
		return nil // it moved meanwhile; this record is lost
	}
	if s := now.Unix(); s != o.trials.second {
		o.trials.second, o.trials.count = s, 0
	}
	if o.trials.count >= farTrials {
		return nil
	}
	o.trials.count++
	s := o.secret // of newest + 1
	defer clear(s[:])
	for range epoch - newest - 1 {
		if s.advance() != nil {
			return nil
		}
	}
	k, err := s.key(o.suite)
	if err != nil {
		return nil
	}
	return k
}

// accept moves the keys and the window to a record that opened.
func (o *Opener) accept(dst, packet []byte, epoch, seq uint64) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		ks := o.keys.Load()
		if ks == nil {
			return dst, errNoOpener
		}
		if epoch <= ks.epoch {
			break
		}
		if err := o.moveLocked(ks); err != nil {
			return dst, err
		}
	}
	if !o.window.take(seq) {
		o.fail.replay.Add(1)
		return dst, ErrReplay
	}
	return packet, nil
}

// moveLocked makes the next epoch the newest.
func (o *Opener) moveLocked(ks *receiveKeys) error {
	if err := o.secret.advance(); err != nil {
		return err
	}
	next, err := o.secret.key(o.suite)
	if err != nil {
		return err
	}
	o.keys.Store(&receiveKeys{epoch: ks.epoch + 1, past: ks.now, now: ks.next, next: next})
	return nil
}

// Failures returns what was dropped so far.
func (o *Opener) Failures() Failures {
	f := &o.fail
	return Failures{Short: f.short.Load(), Epoch: f.epoch.Load(), Replay: f.replay.Load(), Forged: f.forged.Load()}
}

// Close wipes the keys: nothing can be opened any more.
func (o *Opener) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.secret[:])
	o.keys.Store(nil)
}
