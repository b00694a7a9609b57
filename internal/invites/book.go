package invites

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/atomicfile"
	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/ratelimit"
)

// Limits (S24).
const (
	maxOpen  = 64
	maxKept  = 256       // entries, those that are over among them
	explain  = time.Hour // for how long an invite that is over is answered for
	remember = 7 * 24 * time.Hour
	perNode  = 5   // wrong secrets of one node
	inAll    = 100 // wrong secrets, after which all invites end
	MaxFor   = 30 * 24 * time.Hour
	rate     = 1 // secrets a second that are looked at
)

// Why a secret is refused. The texts go to who showed it.
var (
	ErrWrong   = errors.New("that secret is not one of this node's invites")
	ErrUsed    = errors.New("the invite was used already")
	ErrExpired = errors.New("the invite has expired")
	ErrBusy    = errors.New("too many try to join at once, try again")
	ErrEnded   = errors.New("too many wrong secrets were tried: all invites have ended")
)

// Invite is one entry.
type Invite struct {
	// Hash is the SHA-256 of the secret, in hex.
	Hash    string    `json:"hash"`
	Created time.Time `json:"created"`
	Until   time.Time `json:"until"`
	// Name is the petname that who joins gets, empty for none; Allow are its rules.
	Name  string   `json:"name,omitempty"`
	Allow []string `json:"allow"`
	// UsedBy is who joined, zero for nobody, UsedAt when.
	UsedBy identity.NodeID `json:"used_by,omitzero"`
	UsedAt time.Time       `json:"used_at,omitzero"`
}

// Book is the file of invites. Its methods may be called from any goroutine.
type Book struct {
	path string
	// answering is when the last invite is over that is answered for, Unix seconds.
	answering atomic.Int64

	// wrong counts the secrets that were none, by node. It has a lock of its own, which is
	// held for no longer than a look: packets wait for it.
	wrongMu sync.Mutex
	wrong   map[identity.NodeID]int

	mu    sync.Mutex // guards the fields below
	list  []Invite
	total int
	pace  ratelimit.Bucket
	said  time.Time // what the time was when it was last asked for,
	seen  time.Time // and that of the monotonic clock
}

// read enters what the file holds. One that others may read or change is refused (S5).
func (b *Book) read() error {
	info, err := os.Stat(b.path)
	if err != nil {
		return err
	}
	if err := filecheck.Secret(b.path, "it", info); err != nil {
		return err
	}
	data, err := os.ReadFile(b.path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &b.list); err != nil {
		return fmt.Errorf("%s: %w", b.path, err)
	}
	return nil
}

// Open reads the file, if there is one. One that cannot be understood is an error.
func Open(path string) (*Book, error) {
	b := &Book{path: path, wrong: make(map[identity.NodeID]int)}
	if err := b.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, i := range b.list { // the clock may have gone back while nothing ran
		for _, at := range []time.Time{i.Created, i.UsedAt} {
			if at.After(b.said) {
				b.said = at
			}
		}
	}
	b.noteLocked()
	return b, nil
}

// nowLocked is the later one of what the wall clock says and of what it said before with what
// has passed since: a clock that is set back prolongs nothing.
func (b *Book) nowLocked(now time.Time) time.Time {
	wall := now.Round(0)
	if !b.seen.IsZero() {
		b.said = b.said.Add(max(now.Sub(b.seen), 0))
	}
	if wall.After(b.said) {
		b.said = wall
	}
	b.seen = now
	return b.said
}

// Add makes an invite and returns its secret.
func (b *Book) Add(name string, allow []string, lasts time.Duration, now time.Time) (secret [identity.InviteSecretLen]byte, entry Invite, err error) {
	if lasts <= 0 || lasts > MaxFor {
		return secret, entry, fmt.Errorf("an invite lasts up to %d days", int(MaxFor/(24*time.Hour)))
	}
	_, _ = rand.Read(secret[:]) // never fails
	b.mu.Lock()
	defer b.mu.Unlock()
	now = b.nowLocked(now)
	open := 0
	for _, i := range b.list {
		if i.UsedBy.IsZero() && now.Before(i.Until) {
			open++
		}
	}
	if open >= maxOpen {
		return secret, entry, fmt.Errorf("%d invites are open already", open)
	}
	entry = Invite{Hash: hashOf(secret[:]), Created: now.UTC().Round(0), Until: now.Add(lasts).UTC().Round(0), Name: name, Allow: allow}
	list := make([]Invite, 0, len(b.list)+1)
	for _, i := range b.list {
		if now.Before(over(i).Add(remember)) {
			list = append(list, i)
		}
	}
	list = append(list, entry)
	if err := b.saveLocked(list[max(0, len(list)-maxKept):]); err != nil {
		return secret, entry, err
	}
	b.total = 0
	b.wrongMu.Lock()
	defer b.wrongMu.Unlock()
	clear(b.wrong)
	return secret, entry, nil
}

// over is when an invite was used or has expired.
func over(i Invite) time.Time {
	if !i.UsedAt.IsZero() && i.UsedAt.Before(i.Until) {
		return i.UsedAt
	}
	return i.Until
}

func hashOf(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

// saveLocked writes the list, which counts when it is written.
func (b *Book) saveLocked(list []Invite) error {
	data, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = atomicfile.Write(b.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return err
	}
	b.list = list
	b.noteLocked()
	return nil
}

func (b *Book) noteLocked() {
	var last time.Time
	for _, i := range b.list {
		if end := over(i).Add(explain); end.After(last) {
			last = end
		}
	}
	b.answering.Store(last.Unix())
}

// Answering reports whether a node that is no peer is listened to: an invite is open, or
// was until not long ago.
func (b *Book) Answering(now time.Time) bool { return now.Unix() < b.answering.Load() }

// Barred reports whether a node has shown so many wrong secrets that it is not listened to
// any more.
func (b *Book) Barred(id identity.NodeID) bool {
	b.wrongMu.Lock()
	defer b.wrongMu.Unlock()
	return b.wrong[id] >= perNode
}

// Use takes the secret that a node shows. The entry is marked and saved before this
// returns; the same node may show it again for an hour.
func (b *Book) Use(id identity.NodeID, secret []byte, now time.Time) (Invite, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now = b.nowLocked(now)
	switch {
	case b.total >= inAll:
		return Invite{}, ErrEnded
	case b.Barred(id):
		return Invite{}, ErrWrong
	case !b.pace.Take(now, rate, 4*rate):
		return Invite{}, ErrBusy
	}
	hash, at := hashOf(secret), -1
	for i := range b.list {
		if subtle.ConstantTimeCompare([]byte(hash), []byte(b.list[i].Hash)) == 1 {
			at = i
		}
	}
	if at < 0 {
		return Invite{}, b.countWrongLocked(id, now)
	}
	entry := b.list[at]
	switch {
	case entry.UsedBy == id && now.Before(entry.UsedAt.Add(explain)):
		return entry, nil
	case !entry.UsedBy.IsZero():
		return Invite{}, ErrUsed
	case !now.Before(entry.Until):
		return Invite{}, ErrExpired
	}
	entry.UsedBy, entry.UsedAt = id, now.UTC().Round(0)
	list := append([]Invite(nil), b.list...)
	list[at] = entry
	if err := b.saveLocked(list); err != nil {
		return Invite{}, err
	}
	return entry, nil
}

// countWrongLocked counts a wrong secret; too many end all invites that are open.
func (b *Book) countWrongLocked(id identity.NodeID, now time.Time) error {
	b.wrongMu.Lock()
	b.wrong[id]++
	b.wrongMu.Unlock()
	if b.total++; b.total < inAll {
		return ErrWrong
	}
	list := append([]Invite(nil), b.list...)
	for i := range list {
		if list[i].UsedBy.IsZero() && now.Before(list[i].Until) {
			list[i].Until = now.UTC().Round(0)
		}
	}
	if err := b.saveLocked(list); err != nil {
		b.list = list // in force all the same
	}
	return ErrEnded
}
