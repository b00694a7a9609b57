package relayserver

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

var (
	someDay   = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	somewhere = netip.MustParseAddr("192.0.2.1")
)

func nobody(identity.NodeID) bool { return false }

// remembered opens a file of logins, or memory.
func remembered(t *testing.T, path string, connected func(identity.NodeID) bool) *proven {
	t.Helper()
	p, err := openProven(path, connected)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *proven) mustAdd(t *testing.T, id identity.NodeID, from netip.Addr, now time.Time) {
	t.Helper()
	if err := p.add(id, from, now); err != nil {
		t.Fatal(err)
	}
}

// A line that was cut off when the power failed spoils neither those before it nor
// the next one. Lines without a day are those of regulars.
func TestProvenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "logins")
	a, b, c := newKey().NodeID(), newKey().NodeID(), newKey().NodeID()
	if err := os.WriteFile(file, []byte(a.String()+"\n"+b.String()[:20]), 0o600); err != nil {
		t.Fatal(err)
	}
	p := remembered(t, file, nobody)
	for range 2 { // the second time it is known
		p.mustAdd(t, b, somewhere, someDay)
	}
	p.mustAdd(t, c, somewhere, someDay)
	p.mustAdd(t, c, somewhere, someDay.Add(24*time.Hour))
	p.close()
	got, err := os.ReadFile(file)
	want := a.String() + "\n" + b.String() + " 2026-05-01\n" + c.String() + " 2026-05-01\n" + c.String() + "\n"
	if err != nil || string(got) != want {
		t.Errorf("%q, want %q, %v", got, want, err)
	}
	p = remembered(t, file, nobody)
	if !p.has(a) || !p.has(b) || !p.has(c) || p.regulars.Len() != 2 || p.newcomers.Len() != 1 {
		t.Errorf("%d regulars, %d newcomers", p.regulars.Len(), p.newcomers.Len())
	}
	p.close()
	if err := p.add(newKey().NodeID(), somewhere, someDay); err != nil {
		t.Errorf("after the end: %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || strings.Count(string(got), "\n") != 3 {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := openProven(t.TempDir(), nobody); err == nil {
		t.Error("a directory is no file")
	}
}

// S2: whoever logs in with many keys displaces neither who is connected nor who was here on two
// days, and the file does not grow without end.
func TestProvenIsNotFlushed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "logins")
	regular, connected, once := newKey().NodeID(), newKey().NodeID(), newKey().NodeID()
	p := remembered(t, file, func(id identity.NodeID) bool { return id == connected })
	defer func() { p.close() }()
	p.mustAdd(t, regular, somewhere, someDay.Add(-24*time.Hour))
	for _, id := range []identity.NodeID{regular, connected, once} {
		p.mustAdd(t, id, somewhere, someDay)
	}
	check := func() {
		t.Helper()
		if !p.has(regular) || !p.has(connected) {
			t.Fatalf("after many others: regular %v, connected %v", p.has(regular), p.has(connected))
		}
		if p.newcomers.Len() > maxNewcomers {
			t.Fatalf("%d newcomers", p.newcomers.Len())
		}
	}
	stranger := func(i int) (id identity.NodeID) {
		binary.BigEndian.PutUint64(id[:], uint64(i))
		return id
	}
	prefix := func(i int) netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
	}
	// Of one prefix no more than so many are taken in, though it comes for days.
	day := someDay
	for i := range 5000 {
		p.mustAdd(t, stranger(i), somewhere, day)
	}
	if n := p.newcomers.Len(); n > newPerDay {
		t.Errorf("%d keys of one prefix at once", n)
	}
	check()
	// Of many prefixes: more than are remembered, and so on until the file is written anew.
	const keys = 3*maxNewcomers + 2*spareLines
	for i := range keys {
		p.mustAdd(t, stranger(10_000+i), prefix(i/10), day)
	}
	check()
	if p.has(once) {
		t.Error("nobody was displaced: too few strangers were taken in for a test")
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	line := len(regular.String()) + len(" 2026-05-01\n")
	if most := int64(line) * (2*(maxNewcomers+1) + spareLines + 1); info.Size() > most {
		t.Errorf("the file has %d bytes after %d logins, more than %d", info.Size(), keys, most)
	}
	p.close()
	p = remembered(t, file, nobody)
	check()
}

// S2: a login by the protocol of iroh 1.x is a proof as well.
func TestIroh1LoginsAreRemembered(t *testing.T) {
	s := start(t, Config{})
	key := newKey()
	c := logInIroh1(t, s, key)
	_ = c.conn.CloseNow()
	thief := dialRaw(t, s)
	thief.upgrade()
	thief.write(relay.AppendClientInfo(nil, key))
	thief.refused(wantsChallenge)
}
