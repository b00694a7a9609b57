package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/rules"
)

func newID(t testing.TB) identity.NodeID {
	t.Helper()
	return identity.GenerateSecretKey().NodeID()
}

func parseRules(t testing.TB, text string) rules.Rules {
	t.Helper()
	r, err := rules.Parse([]string{text})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPeersRoundTrip(t *testing.T) {
	relay, err := identity.ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := ParseAddrPort("[2001:db8::7]:41820")
	if err != nil {
		t.Fatal(err)
	}
	want := []Peer{
		{ID: newID(t), Name: "nas", Relay: relay, Rules: parseRules(t, "tcp/22 udp/53 icmp")},
		{ID: newID(t), Rules: rules.Rules{}},
		{ID: newID(t), Name: "all", Rules: parseRules(t, "all")},
	}
	want[0].Addrs = append(want[0].Addrs, addr)
	dir := t.TempDir()
	if _, err := NewPeers(dir).Edit(func([]Peer) ([]Peer, error) { return want, nil }); err != nil {
		t.Fatal(err)
	}
	got, err := NewPeers(dir).Load()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if !got[1].Rules.Empty() {
		t.Error("a denied peer came back with rules")
	}
}

// S5: what holds the peers is readable by its owner only.
func TestPeersMode(t *testing.T) {
	f := NewPeers(t.TempDir())
	if _, err := f.Edit(func(l []Peer) ([]Peer, error) { return append(l, Peer{ID: newID(t)}), nil }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(f.Path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// S15: an entry that says nothing about rules has the default, and an empty
// list is a denial.
func TestPeersDefaultRules(t *testing.T) {
	dir := t.TempDir()
	content := fmt.Sprintf("[[peer]]\nid = %q\n[[peer]]\nid = %q\nallow = []\n", newID(t), newID(t).Hex())
	if err := os.WriteFile(filepath.Join(dir, "peers.toml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := NewPeers(dir).Load()
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Rules.String() != "tcp/22 icmp" || !got[1].Rules.Empty() {
		t.Errorf("rules %q and %q", got[0].Rules, got[1].Rules)
	}
}

// A broken file is told with file, line and key, and Edit leaves it alone.
func TestPeersBroken(t *testing.T) {
	id := newID(t).String()
	for _, tc := range []struct{ name, content, want string }{
		{"syntax", "[[peer]\nid = 1\n", ":1"},
		{"no id", "\n[[peer]]\nname = \"x\"\n", ":2: id: is missing"},
		{"bad id", "[[peer]]\nname = \"x\"\nid = \"abc\"\n", ":3: id: "},
		{"id of another type", "[[peer]]\nid = 1\n", ":2: id: must be text"},
		{"second entry", "[[peer]]\nid = \"" + id + "\"\n\n[[peer]]\nid = \"x\"\n", ":5: id: "},
		{"twice", "[[peer]]\nid = \"" + id + "\"\n[[peer]]\nid = \"" + strings.ToUpper(id) + "\"\n", ":4: id: " + id + " is there twice"},
		{"rule", "[[peer]]\nid = \"" + id + "\"\nallow = [\"tcp/99999\"]\n", ":3: allow: "},
		{"address", "[[peer]]\nid = \"" + id + "\"\naddrs = [\"192.0.2.7\"]\n", ":3: addrs: \"192.0.2.7\" is no ip:port"},
		{"relay", "[[peer]]\nid = \"" + id + "\"\nrelay = \"r.example\"\n", ":3: relay: "},
		{"unknown key", "[[peer]]\nid = \"" + id + "\"\nnmae = \"x\"\n", ":3: nmae: unknown key (did you mean name?)"},
		{"unknown table", "[[peers]]\n", ":1: peers: unknown key (did you mean peer?)"},
		{"one bracket", "[peer]\nid = \"" + id + "\"\n", "two brackets"},
		{"inline", "peer = [1]\n", "two brackets"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, "peers.toml", tc.content)
			f := NewPeers(filepath.Dir(path))
			_, err := f.Edit(func(l []Peer) ([]Peer, error) { t.Error("called"); return l, nil })
			if !errors.Is(err, ErrBadFile) {
				t.Fatalf("got %v", err)
			}
			if text := strings.ReplaceAll(err.Error(), path, "FILE"); !strings.Contains(text, tc.want) || strings.Contains(text, "\n") {
				t.Errorf("got %q, want %q in it", text, tc.want)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != tc.content {
				t.Errorf("the file was changed: %q, %v", b, err)
			}
		})
	}
}

func TestPeersEditError(t *testing.T) {
	f, no := NewPeers(t.TempDir()), errors.New("no")
	if _, err := f.Edit(func([]Peer) ([]Peer, error) { return nil, no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(f.Path()); !os.IsNotExist(err) {
		t.Errorf("the file exists: %v", err)
	}
}

// A command and the daemon write at once: nothing is lost.
func TestPeersEditsAreSerial(t *testing.T) {
	dir := t.TempDir()
	const writers, each = 4, 10
	var tasks sync.WaitGroup
	for range writers {
		tasks.Go(func() {
			f := NewPeers(dir) // as another process would
			for range each {
				if _, err := f.Edit(func(l []Peer) ([]Peer, error) { return append(l, Peer{ID: newID(t)}), nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	tasks.Wait()
	if got, err := NewPeers(dir).Load(); err != nil || len(got) != writers*each {
		t.Errorf("%d peers, want %d (%v)", len(got), writers*each, err)
	}
}

func TestLockState(t *testing.T) {
	dir := t.TempDir()
	unlock, err := LockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockState(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	unlock, err = LockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
