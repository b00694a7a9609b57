package discoveryserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// bolt is a Store in one file. Its bucket holds, by NodeID,
//
//	time of the last put u64, big endian, seconds since 1970 │ payload of the packet
type bolt struct{ db *bbolt.DB }

var packets = []byte("packets")

const (
	boltFile = "packets.db"
	// boltLock is how long another process may take to let go of the file.
	boltLock = 5 * time.Second
	stampLen = 8
)

// OpenBolt opens the store of a directory, and makes both if they are not there. Writers
// that come at one time share one write to the disk.
func OpenBolt(dir string) (Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	path := filepath.Join(dir, boltFile)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: boltLock, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("store: another process uses %s", path)
	case err != nil:
		return nil, fmt.Errorf("store: %s: %w", path, err)
	}
	db.MaxBatchDelay = 2 * time.Millisecond
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(packets)
		return err
	})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("store: %s: %w", path, err)
	}
	return &bolt{db}, nil
}

func (b *bolt) Put(_ context.Context, p pkarr.Packet) error {
	var outcome error
	err := b.db.Batch(func(tx *bbolt.Tx) error {
		bucket, id := tx.Bucket(packets), p.ID()
		outcome = nil // it may run twice
		if have, err := decode(id, bucket.Get(id[:])); err == nil {
			if outcome = compare(p, have); outcome != nil {
				return nil
			}
		}
		return bucket.Put(id[:], encode(p, time.Now()))
	})
	return errors.Join(err, outcome)
}

func (b *bolt) Get(_ context.Context, id identity.NodeID) (p pkarr.Packet, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		p, err = decode(id, bytes.Clone(tx.Bucket(packets).Get(id[:])))
		return err
	})
	return p, err
}

// evictStep is how many entries are looked at in one transaction, so that writers do not
// wait long.
const evictStep = 10000

func (b *bolt) Evict(ctx context.Context, before time.Time) (n int, err error) {
	var next []byte
	for done := false; !done && err == nil && ctx.Err() == nil; {
		err = b.db.Update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket(packets)
			var old [][]byte // a cursor that deletes loses its place
			c := bucket.Cursor()
			key, value := c.Seek(next)
			for range evictStep {
				if key == nil {
					break
				}
				if len(value) < stampLen || int64(binary.BigEndian.Uint64(value)) < before.Unix() {
					old = append(old, key)
				}
				key, value = c.Next()
			}
			next, done = bytes.Clone(key), key == nil
			for _, key := range old {
				if err := bucket.Delete(key); err != nil {
					return err
				}
			}
			n += len(old)
			return nil
		})
	}
	return n, err
}

func (b *bolt) Close() error { return b.db.Close() }

func encode(p pkarr.Packet, now time.Time) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(now.Unix())), p.Payload()...)
}

// decode reads an entry. One that cannot be read, as a disk may leave it, is as none.
func decode(id identity.NodeID, b []byte) (pkarr.Packet, error) {
	if len(b) < stampLen {
		return pkarr.Packet{}, ErrNotFound
	}
	p, err := pkarr.Restore(id, b[stampLen:])
	if err != nil {
		return pkarr.Packet{}, ErrNotFound
	}
	return p, nil
}
