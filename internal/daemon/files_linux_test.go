package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/nstest"
)

// saysHealth reports whether a health line of the node has a text in it.
func (r *running) saysHealth(t *testing.T, text string) bool {
	t.Helper()
	status, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(fmt.Sprint(status.Health), text)
}

// A list of peers that cannot be read changes nothing, is told of until it can, and
// keeps nobody from denying and forgetting.
func TestNetnsBrokenPeersFile(t *testing.T) {
	r, nas, pc := start(t, nil), newID(), newID()
	for id, name := range map[string]string{nas.String(): "nas", pc.String(): "pc"} {
		if _, err := r.AddPeer(t.Context(), localapi.AddRequest{Peer: id, Name: name, Allow: []string{"all"}}); err != nil {
			t.Fatal(err)
		}
	}
	path := config.NewPeers(r.cfg.StateDir).Path()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const failed = "the last reload failed"
	for name, content := range map[string][]byte{"no TOML": []byte("[[peer\n"), "empty": {}, "halved": good[:len(good)/2]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.Reload(t.Context()); err == nil || !r.saysHealth(t, failed) {
			t.Errorf("%s: reload %v, no health line", name, err)
		}
	}
	if _, err := r.Deny(t.Context(), localapi.RulesRequest{Peer: "nas"}); err == nil || !strings.Contains(err.Error(), "in force until") {
		t.Errorf("deny: %v", err)
	}
	if _, err := r.Forget(t.Context(), "pc"); err == nil || !strings.Contains(err.Error(), "in force until") {
		t.Errorf("forget: %v", err)
	}
	if check, err := r.Check(t.Context(), "nas", "tcp/22"); err != nil || check.Allowed {
		t.Errorf("a denied peer: %+v, %v", check, err)
	}
	if _, err := r.Check(t.Context(), "pc", "tcp/22"); localapi.KindOf(err) != localapi.KindNotFound {
		t.Errorf("a forgotten peer: %v", err)
	}
	if !r.saysHealth(t, "could not be saved") {
		t.Error("status does not tell that it is not saved")
	}
	if _, err := r.Allow(t.Context(), localapi.RulesRequest{Peer: "nas"}); err == nil {
		t.Error("rights were given that are saved nowhere")
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(t.Context()); err != nil || r.saysHealth(t, failed) || r.saysHealth(t, "could not be saved") {
		t.Errorf("after the file was mended: %v, health lines stay", err)
	}
}

// A node whose caches were spoilt by a power cut, and whose state directory has become
// read-only, comes up from what is there.
func TestNetnsSpoiltStateDirectory(t *testing.T) {
	nstest.RequireRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	here := func(c *nodeConfig) { c.StateDir = dir }
	first := start(t, here)
	self, err := first.Self(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.end(); err != nil {
		t.Fatal(err)
	}

	old := filepath.Join(dir, ".addresses.json.123")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*leftover)); err != nil {
		t.Fatal(err)
	}
	spoil := func(content []byte) {
		for _, name := range []string{addressesFile, saltFile} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, content := range map[string][]byte{"empty": {}, "half": []byte(`{"po`), "NUL": make([]byte, 4096)} {
		spoil(content)
		r := start(t, here)
		if again, err := r.Self(t.Context()); err != nil || again.ID != self.ID {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
		for _, file := range []string{addressesFile, saltFile} {
			if !r.saysHealth(t, file+".broken") {
				t.Errorf("%s: status does not tell of %s", name, file)
			}
			if b, err := os.ReadFile(filepath.Join(dir, file+".broken")); err != nil || string(b) != string(content) {
				t.Errorf("%s: %s was not kept: %v", name, file, err)
			}
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a temporary file was left: %v", err)
	}

	spoil(nil)
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	r := start(t, here)
	if again, err := r.Self(t.Context()); err != nil || again.ID != self.ID || !r.saysHealth(t, "nothing can be saved") {
		t.Errorf("read-only: %+v, %v", again, err)
	}
	if _, err := r.AddPeer(t.Context(), localapi.AddRequest{Peer: newID().String()}); err == nil {
		t.Error("a peer was added that is saved nowhere")
	}
	if out, err := nodeCommand(t, r.ns, r.cfg).CombinedOutput(); err == nil || !strings.Contains(string(out), "already running") {
		t.Errorf("a second node: %v\n%s", err, out)
	}
}
