package invites

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
)

func newID() identity.NodeID { return identity.GenerateSecretKey().NodeID() }

func open(t *testing.T, path string) *Book {
	t.Helper()
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *Book) add(t *testing.T, lasts time.Duration) []byte {
	t.Helper()
	secret, _, err := b.Add("laptop", []string{"tcp/22"}, lasts, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return secret[:]
}

func (b *Book) use(t *testing.T, id identity.NodeID, secret []byte, want error) {
	t.Helper()
	time.Sleep(time.Second) // one a second is looked at
	entry, err := b.Use(id, secret, time.Now())
	if !errors.Is(err, want) || want == nil && (err != nil || entry.Name != "laptop" || entry.UsedBy != id) {
		t.Errorf("%+v, %v, want %v", entry, err, want)
	}
}

// S24: once, by one node, for a while; over a restart too.
func TestUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "invites.json")
		b := open(t, path)
		if b.Answering(time.Now()) {
			t.Error("it answers without an invite")
		}
		alice, bob := newID(), newID()
		secret, short := b.add(t, time.Hour), b.add(t, time.Minute)
		if !b.Answering(time.Now()) {
			t.Error("it does not answer")
		}
		b.use(t, alice, []byte("something of no size"), ErrWrong)
		b.use(t, alice, nil, ErrWrong)
		b.use(t, alice, secret, nil)
		b.use(t, bob, secret, ErrUsed)
		b.use(t, alice, secret, nil) // its answer may have got lost
		b = open(t, path)
		b.use(t, bob, secret, ErrUsed)
		b.use(t, alice, secret, nil)
		time.Sleep(time.Minute)
		b.use(t, bob, short, ErrExpired)
		time.Sleep(time.Hour)
		b.use(t, alice, secret, ErrUsed)
		time.Sleep(time.Hour)
		if b.Answering(time.Now()) {
			t.Error("it answers long after")
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		data, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(data), string(secret)) {
			t.Errorf("the secret is in the file: %v", err)
		}
	})
}

// A clock that is set back prolongs nothing.
func TestClockGoesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invites.json")
	b := open(t, path)
	now := time.Now().Round(0)
	secret, _, err := b.Add("laptop", nil, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Use(newID(), make([]byte, 16), now.Add(2*time.Hour)); !errors.Is(err, ErrWrong) {
		t.Error(err)
	}
	if _, err := b.Use(newID(), secret[:], now); !errors.Is(err, ErrExpired) {
		t.Errorf("an hour back: %v", err)
	}
}

// S24: five wrong secrets of a node, a hundred in all.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "invites.json"))
		secret := b.add(t, MaxFor)
		guesser := newID()
		for range perNode {
			b.use(t, guesser, make([]byte, identity.InviteSecretLen), ErrWrong)
		}
		b.use(t, guesser, secret, ErrWrong)
		if !b.Barred(guesser) || b.Barred(newID()) {
			t.Error("the guesser is not barred, or everybody is")
		}
		for range inAll - perNode - 1 {
			b.use(t, newID(), make([]byte, identity.InviteSecretLen), ErrWrong)
		}
		b.use(t, newID(), make([]byte, identity.InviteSecretLen), ErrEnded)
		b.use(t, newID(), secret, ErrEnded)
		for range 1000 {
			if _, err := b.Use(newID(), make([]byte, identity.InviteSecretLen), time.Now()); err == nil {
				t.Fatal("let in")
			}
		}
		if len(b.wrong) > inAll {
			t.Errorf("%d guessers are remembered", len(b.wrong))
		}
		// A new invite is a new beginning.
		fresh := b.add(t, time.Hour)
		b.use(t, newID(), secret, ErrExpired)
		b.use(t, newID(), fresh, nil)
		// So many at once and no more.
		busy := 0
		for range 20 {
			if _, err := b.Use(newID(), secret, time.Now()); errors.Is(err, ErrBusy) {
				busy++
			}
		}
		if busy < 15 {
			t.Errorf("%d of 20 at once are put off", busy)
		}
	})
}

func TestBounds(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "invites.json"))
	for range maxOpen {
		b.add(t, time.Hour)
	}
	if _, _, err := b.Add("", nil, time.Hour, time.Now()); err == nil {
		t.Error("there is no end of invites")
	}
	for _, lasts := range []time.Duration{0, -1, MaxFor + 1} {
		if _, _, err := b.Add("", nil, lasts, time.Now()); err == nil {
			t.Errorf("one for %v", lasts)
		}
	}
}

func TestBrokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invites.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
}

// What could not be saved was not used.
func TestUseIsSavedFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := open(t, filepath.Join(dir, "invites.json"))
	secret := b.add(t, time.Hour)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	id := newID()
	if _, err := b.Use(id, secret, time.Now()); err == nil {
		t.Error("used, and not saved")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Use(id, secret, time.Now()); err != nil {
		t.Error(err)
	}
}

// Packets of strangers are judged while the file is being written.
func TestBarredWaitsForNoDisk(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "invites.json"))
	b.mu.Lock() // as Use and Add hold it while they write
	defer b.mu.Unlock()
	if b.Barred(newID()) || b.Answering(time.Now()) {
		t.Error("barred, or answering, without a reason")
	}
}
