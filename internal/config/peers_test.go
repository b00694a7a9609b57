package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

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
		{ID: newID(t), Name: "for a while", Grants: []Grant{
			{parseRules(t, "tcp/5432 udp/60000-61000"), time.Date(2026, 12, 31, 12, 0, 0, 0, time.UTC)},
			{parseRules(t, "icmp"), time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)},
		}},
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

// A permission ends at its time, and one that is taken away is gone in every form.
func TestGrants(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	p := Peer{Rules: parseRules(t, "icmp")}
	p = p.Grant(parseRules(t, "tcp/22"), now.Add(time.Hour), now)
	p = p.Grant(parseRules(t, "tcp/80"), now.Add(2*time.Hour), now)
	p = p.Grant(parseRules(t, "tcp/443"), now.Add(2*time.Hour), now)
	for _, tc := range []struct {
		at    time.Duration
		rules string
		ends  time.Duration
	}{
		{0, "tcp/22 tcp/80 tcp/443 icmp", time.Hour},
		{time.Hour - 1, "tcp/22 tcp/80 tcp/443 icmp", time.Hour},
		{time.Hour, "tcp/80 tcp/443 icmp", 2 * time.Hour},
		{2 * time.Hour, "icmp", -1},
	} {
		at := now.Add(tc.at)
		if got := p.RulesAt(at).String(); got != tc.rules {
			t.Errorf("after %v: %s, want %s", tc.at, got, tc.rules)
		}
		if got := p.Ends(at); tc.ends >= 0 && !got.Equal(now.Add(tc.ends)) || tc.ends < 0 && !got.IsZero() {
			t.Errorf("after %v it ends at %v", tc.at, got)
		}
	}
	if less := p.Without(parseRules(t, "tcp/22 tcp/443 icmp")); less.RulesAt(now).String() != "tcp/80" || len(less.Grants) != 1 {
		t.Errorf("%+v", less)
	}
	if later := p.Grant(parseRules(t, "udp/53"), now.Add(3*time.Hour), now.Add(time.Hour)); len(later.Grants) != 2 {
		t.Errorf("what has ended stays: %+v", later.Grants)
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
		{"end of a rule", "[[peer]]\nid = \"" + id + "\"\nallow_until = [\"tomorrow tcp/22\"]\n", ":3: allow_until: \"tomorrow tcp/22\" does not begin with a time"},
		{"rule that ends", "[[peer]]\nid = \"" + id + "\"\nallow_until = [\"2026-12-31T12:00:00Z tcp/0\"]\n", ":3: allow_until: "},
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

// An empty or halved file is not taken for one without peers: the next edit would make
// that true.
func TestPeersCutShort(t *testing.T) {
	dir := t.TempDir()
	file := NewPeers(dir)
	add := func(list []Peer) ([]Peer, error) {
		return append(list, Peer{ID: newID(t), Rules: rules.Default()}), nil
	}
	for range 3 {
		if _, err := file.Edit(add); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(file.Path())
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole[:len(whole)-1] { // without the last line end it is whole
		if err := os.WriteFile(file.Path(), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if peers, err := file.Load(); !errors.Is(err, ErrBadFile) {
			t.Fatalf("the first %d of %d bytes: %d peers, %v", n, len(whole), len(peers), err)
		}
		if _, err := file.Edit(add); !errors.Is(err, ErrBadFile) {
			t.Fatalf("the first %d of %d bytes are written over: %v", n, len(whole), err)
		}
	}
	for _, text := range []string{"", "\n", " \r\n", "\xef\xbb\xbf", "\x00\x00"} {
		if err := os.WriteFile(file.Path(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Load(); !errors.Is(err, ErrBadFile) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := NewPeers(t.TempDir()).Edit(func([]Peer) ([]Peer, error) { return nil, nil }); err != nil {
		t.Errorf("a list without peers: %v", err)
	}
	for _, text := range []string{"# no peers yet\n", "peer = []\n", "[[peer]]\nid = \"" + newID(t).String() + "\"\n"} { // by hand
		if err := os.WriteFile(file.Path(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Load(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What editors and chats do to a file is not held against it, or called by its name.
func TestPeersOfOtherEditors(t *testing.T) {
	id := newID(t)
	entry := "[[peer]]\nid = \"" + id.String() + "\"\nname = \"nas\"\n"
	for name, text := range map[string]string{
		"byte order mark": "\xef\xbb\xbf" + entry,
		"CRLF":            strings.ReplaceAll(entry, "\n", "\r\n"),
		"CR":              strings.ReplaceAll(entry, "\n", "\r"),
		"blank behind":    strings.Replace(entry, id.String(), id.String()+" ", 1),
		"no-break space":  strings.Replace(entry, id.String(), "\u00a0"+id.String(), 1),
		"zero-width":      strings.Replace(entry, id.String(), id.String()+"\u200b", 1),
		"upper case":      strings.Replace(entry, id.String(), strings.ToUpper(id.String()), 1),
	} {
		file := NewPeers(t.TempDir())
		if err := os.WriteFile(file.Path(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if peers, err := file.Load(); err != nil || len(peers) != 1 || peers[0].ID != id || peers[0].Name != "nas" {
			t.Errorf("%s: %+v, %v", name, peers, err)
		}
	}
	for text, want := range map[string]string{
		"\xff\xfe[\x00[\x00":   "UTF-16",
		"\xfe\xff\x00[\x00[":   "UTF-16",
		"[[peer]]\nid = “x”\n": ":2: has typographic quotation marks",
	} {
		file := NewPeers(t.TempDir())
		if err := os.WriteFile(file.Path(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Load(); !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// Whatever Edit writes can be read again; what could not be it refuses.
func FuzzPeersEdit(f *testing.F) {
	f.Add("nas", []byte{192, 0, 2, 7}, uint16(0), 1, "https://relay.example.org", "tcp/22")
	f.Add("x\n[[peer]]", []byte{0, 0, 0, 0}, uint16(1), 65, "", "")
	f.Add("\"", make([]byte, 16), uint16(41820), 64, "http://[::1]:1/", "all")
	id := newID(f)
	f.Fuzz(func(t *testing.T, name string, ip []byte, port uint16, copies int, relay, rule string) {
		p := Peer{ID: id, Name: name}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			for i := range min(max(copies, 0), 2*MaxAddrs) {
				p.Addrs = append(p.Addrs, netip.AddrPortFrom(addr, port+uint16(i)))
			}
		}
		p.Relay, _ = identity.ParseRelayURL(relay)
		p.Rules, _ = rules.Parse([]string{rule})
		file := NewPeers(t.TempDir())
		if _, err := file.Edit(func([]Peer) ([]Peer, error) { return []Peer{p}, nil }); err != nil {
			if _, err := os.Stat(file.Path()); err == nil {
				t.Fatal("an edit that failed wrote the file")
			}
			return
		}
		if got, err := file.Load(); err != nil || len(got) != 1 {
			t.Fatalf("%+v: %v", got, err)
		}
	})
}

// Whoever finds a state directory locked learns by whom; a number that is left is
// believed of nobody.
func TestLockHolder(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the holder is known on Linux only")
	}
	dir := t.TempDir()
	unlock, err := LockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if pid := LockHolder(dir); pid != os.Getpid() {
		t.Errorf("held by %d, want %d", pid, os.Getpid())
	}
	unlock()
	if pid := LockHolder(dir); pid != 0 {
		t.Errorf("held by %d, which has let go", pid)
	}
	for _, text := range []string{"1\n", "-7", "x", fmt.Sprint(os.Getppid())} {
		if err := os.WriteFile(lockPath(dir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if pid := LockHolder(dir); pid != 0 {
			t.Errorf("%q: held by %d", text, pid)
		}
	}
}
