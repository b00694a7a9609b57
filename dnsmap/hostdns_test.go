package dnsmap_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/internal/nstest"
)

const original = "# made by hand\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.org\noptions edns0\n"

// file is a resolv.conf of the test's own.
type file struct {
	path, state string
}

func newFile(t *testing.T, content string) file {
	t.Helper()
	dir := t.TempDir()
	f := file{path: filepath.Join(dir, "resolv.conf"), state: filepath.Join(dir, "dns-state.json")}
	f.write(t, content)
	return f
}

func (f file) write(t *testing.T, content string) {
	t.Helper()
	if err := os.WriteFile(f.path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f file) read(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (f file) config() dnsmap.HostConfig {
	return dnsmap.HostConfig{
		Mode:       dnsmap.ModeFile,
		Server:     netip.MustParseAddrPort("127.0.0.153:53"),
		ResolvConf: f.path,
		StatePath:  f.state,
	}
}

func (f file) apply(t *testing.T, change func(*dnsmap.HostConfig)) *dnsmap.HostDNS {
	t.Helper()
	cfg := f.config()
	if change != nil {
		change(&cfg)
	}
	h, err := dnsmap.NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	report, err := h.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report != (dnsmap.Report{Mode: dnsmap.ModeFile}) {
		t.Errorf("report %+v", report)
	}
	return h
}

func undo(t *testing.T, h *dnsmap.HostDNS) {
	t.Helper()
	if err := h.Undo(); err != nil {
		t.Error(err)
	}
}

// keep runs h until the test ends, and undoes it.
func keep(t *testing.T, h *dnsmap.HostDNS) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		undo(t, h)
	})
}

// until waits for ok, at most nstest.Slack times limit.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	limit *= nstest.Slack
	for start := time.Now(); !ok(); {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func leftovers(t *testing.T, f file) {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != "resolv.conf" {
			t.Errorf("%s left behind", e.Name())
		}
	}
}

func TestFileApplyAndUndo(t *testing.T) {
	for name, content := range map[string]string{
		"usual": original, "empty": "", "no final newline": "nameserver 192.0.2.1", "only comments": "# nothing\n",
	} {
		for _, search := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				f := newFile(t, content)
				if err := os.Chmod(f.path, 0o640); err != nil {
					t.Fatal(err)
				}
				h := f.apply(t, func(c *dnsmap.HostConfig) { c.Search = search })
				got := f.read(t)
				if first := strings.Split(got, "\n")[1]; first != "nameserver 127.0.0.153" || !strings.Contains(got, content) {
					t.Errorf("written:\n%s", got)
				}
				if search != strings.Contains(got, "node.internal") {
					t.Errorf("search %v:\n%s", search, got)
				}
				undo(t, h)
				if got := f.read(t); got != content {
					t.Errorf("restored %q, want %q", got, content)
				}
				if info, _ := os.Stat(f.path); info.Mode().Perm() != 0o640 {
					t.Errorf("mode %s", info.Mode())
				}
				leftovers(t, f)
				undo(t, h)
			})
		}
	}
}

func TestFileSearchKeepsTheOthers(t *testing.T) {
	f := newFile(t, original)
	h := f.apply(t, func(c *dnsmap.HostConfig) { c.Search = true })
	if got := f.read(t); !strings.Contains(got, "\nsearch example.org node.internal\n") {
		t.Errorf("written:\n%s", got)
	}
	undo(t, h)
}

func TestFileServers(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		want    []string
	}{
		"two":           {original, []string{"192.0.2.1", "192.0.2.2"}},
		"none":          {"search x\n", []string{"127.0.0.1"}},
		"empty":         {"", []string{"127.0.0.1"}},
		"ours, doubled": {"nameserver 127.0.0.153\nnameserver\t2001:db8::1 # home\nnameserver 2001:db8::1\nnameserver bad\n", []string{"2001:db8::1"}},
		"link-local":    {"nameserver fe80::1%eth0\n", []string{"fe80::1%eth0"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t, tc.content)
			var told []string
			h := f.apply(t, func(c *dnsmap.HostConfig) { c.OnServers = func(s []string) { told = s } })
			if !slices.Equal(told, tc.want) {
				t.Errorf("told %v, want %v", told, tc.want)
			}
			undo(t, h)
			if got := f.read(t); got != tc.content {
				t.Errorf("restored %q", got)
			}
		})
	}
}

func TestFileUserEditsSurvive(t *testing.T) {
	f := newFile(t, original)
	h := f.apply(t, nil)
	edited := strings.Replace(f.read(t), "192.0.2.2", "192.0.2.9", 1)
	edited = strings.Replace(edited, "# nodetun end\n", "nameserver 192.0.2.77\n# nodetun end\n", 1) + "options timeout:1\n"
	f.write(t, edited)
	undo(t, h)
	want := "nameserver 192.0.2.77\n" + strings.Replace(original, "192.0.2.2", "192.0.2.9", 1) + "options timeout:1\n"
	if got := f.read(t); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	leftovers(t, f)
}

// A DHCP client rewrites the file: our line is back within 2 s, and the new
// servers are those we forward to.
func TestFileIsKept(t *testing.T) {
	f := newFile(t, original)
	var mu sync.Mutex
	var told []string
	h := f.apply(t, func(c *dnsmap.HostConfig) {
		c.OnServers = func(s []string) {
			mu.Lock()
			defer mu.Unlock()
			told = s
		}
	})
	keep(t, h)
	f.write(t, "nameserver 198.51.100.1\n")
	until(t, 2*time.Second, "our line is back", func() bool { return strings.Contains(f.read(t), "nameserver 127.0.0.153\n") })
	until(t, 2*time.Second, "new servers are known", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(told, []string{"198.51.100.1"})
	})
	t.Cleanup(func() { // before keep's, which undoes
		if !strings.Contains(f.read(t), "198.51.100.1") {
			t.Error("the new servers are gone")
		}
	})
}

func TestFileRestoreAfterCrash(t *testing.T) {
	written := func(t *testing.T) (file, string) {
		f := newFile(t, original)
		f.apply(t, nil) // and no Undo
		return f, f.read(t)
	}
	for _, tc := range []struct {
		name string
		// now changes what the crash left.
		now  func(written string) string
		want string
	}{
		{"as written", func(w string) string { return w }, original},
		{"cut short while written", func(w string) string { return w[:70] }, original},
		{"emptied", func(string) string { return "" }, original},
		{"edited", func(w string) string { return w + "options rotate\n" }, original + "options rotate\n"},
		{"replaced by others", func(string) string { return "nameserver 203.0.113.1\n" }, "nameserver 203.0.113.1\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, w := written(t)
			f.write(t, tc.now(w))
			if err := dnsmap.Restore(f.state, f.path); err != nil {
				t.Fatal(err)
			}
			if got := f.read(t); got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
			leftovers(t, f)
			if err := dnsmap.Restore(f.state, f.path); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
	t.Run("a new run without Restore", func(t *testing.T) {
		f, _ := written(t)
		h := f.apply(t, func(c *dnsmap.HostConfig) { c.Server = netip.MustParseAddrPort("[fd6e:6f64:6574::1]:53") })
		if got := f.read(t); strings.Contains(got, "127.0.0.153") || strings.Count(got, "nodetun begin") != 1 {
			t.Errorf("two blocks:\n%s", got)
		}
		undo(t, h)
		if got := f.read(t); got != original {
			t.Errorf("restored\n%s", got)
		}
	})
	for name, state := range map[string][]byte{
		"empty": {}, "half": []byte(`{"path":"/etc/re`), "NUL": make([]byte, 4096), "missing": nil,
	} {
		spoil := func(t *testing.T) file {
			f, _ := written(t)
			if err := os.Remove(f.state); err != nil {
				t.Fatal(err)
			}
			if state != nil {
				if err := os.WriteFile(f.state, state, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			return f
		}
		t.Run("state file "+name, func(t *testing.T) {
			f := spoil(t)
			if err := dnsmap.Restore(f.state, f.path); err != nil {
				t.Fatal(err)
			}
			if got := f.read(t); got != original {
				t.Errorf("restored\n%s", got)
			}
			leftovers(t, f)
		})
		t.Run("a new run, state file "+name, func(t *testing.T) {
			f := spoil(t)
			undo(t, f.apply(t, nil)) // finds the lines as it wants them
			if got := f.read(t); got != original {
				t.Errorf("restored\n%s", got)
			}
			leftovers(t, f)
		})
	}
}

func TestFileMissing(t *testing.T) {
	f := newFile(t, "")
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	h := f.apply(t, nil)
	if got := f.read(t); !strings.Contains(got, "127.0.0.153") {
		t.Errorf("written %q", got)
	}
	undo(t, h)
	if _, err := os.Stat(f.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file stayed: %v", err)
	}
	// Removed by somebody else meanwhile: it stays away.
	h = f.apply(t, nil)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	undo(t, h)
	if _, err := os.Stat(f.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is back: %v", err)
	}
}

func TestFileSymbolicLinks(t *testing.T) {
	f := newFile(t, original)
	link := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.Symlink(f.path, link); err != nil {
		t.Fatal(err)
	}
	cfg := f.config()
	cfg.ResolvConf = link
	h, err := dnsmap.NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced by a file")
	}
	if !strings.Contains(f.read(t), "127.0.0.153") {
		t.Error("its target was not changed")
	}
	undo(t, h)
	if f.read(t) != original {
		t.Error("its target was not restored")
	}

	for _, target := range []string{
		"/run/systemd/resolve/stub-resolv.conf", "/var/run/systemd/resolve/resolv.conf",
		"../../../../../../run/NetworkManager/resolv.conf", "/etc/resolvconf/run/resolv.conf",
	} {
		link := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		cfg.ResolvConf = link
		h, err := dnsmap.NewHost(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Apply(t.Context()); !errors.Is(err, dnsmap.ErrManaged) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// A program's file is changed in the mode that bears its name alone, or in auto.
func TestFileOfAProgram(t *testing.T) {
	for _, tc := range []struct {
		mode    dnsmap.Mode
		content string
		want    error
	}{
		{dnsmap.ModeNetworkManager, "# Generated by NetworkManager\n", nil},
		{dnsmap.ModeResolvconf, "# Generated by resolvconf\n", nil},
		{dnsmap.ModeNetworkManager, original, dnsmap.ErrMode},
		{dnsmap.ModeResolvconf, "# Generated by NetworkManager\n", dnsmap.ErrManaged},
	} {
		f := newFile(t, tc.content)
		cfg := f.config()
		cfg.Mode = tc.mode
		h, err := dnsmap.NewHost(cfg)
		if err != nil {
			t.Fatal(err)
		}
		report, err := h.Apply(t.Context())
		if !errors.Is(err, tc.want) || err == nil && report != (dnsmap.Report{Mode: tc.mode}) {
			t.Errorf("%s: %+v, %v", tc.mode, report, err)
		}
		undo(t, h)
		if got := f.read(t); got != tc.content {
			t.Errorf("%s: afterwards %q", tc.mode, got)
		}
		leftovers(t, f)
	}
}

// What writes resolv.conf may come after us, and go.
func TestAutoFollowsTheHost(t *testing.T) {
	const written = "# Generated by NetworkManager\nnameserver 192.0.2.9\n"
	f := newFile(t, original)
	cfg := f.config()
	cfg.Mode = dnsmap.ModeAuto
	h, err := dnsmap.NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := h.Apply(t.Context()); err != nil || report.Mode != dnsmap.ModeFile {
		t.Fatalf("%+v, %v", report, err)
	}
	keep(t, h)
	for _, step := range []struct {
		content string
		want    dnsmap.Mode
		ours    bool
	}{
		{written, dnsmap.ModeNetworkManager, true},
		{"### /etc/resolv.conf is a symlink, autogenerated by netconfig!\nnameserver 192.0.2.9\n", dnsmap.ModeNone, false},
		{written, dnsmap.ModeNetworkManager, true},
		{original, dnsmap.ModeFile, true},
	} {
		f.write(t, step.content)
		until(t, 2*time.Second, string(step.want), func() bool {
			return h.Report().Mode == step.want && strings.Contains(f.read(t), "127.0.0.153") == step.ours
		})
	}
}

// A file that even root cannot write stays as it is, and the error says why.
func TestFileImmutable(t *testing.T) {
	f := newFile(t, original)
	if out, err := exec.Command("chattr", "+i", f.path).CombinedOutput(); err != nil {
		t.Skipf("chattr: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("chattr", "-i", f.path).Run() })
	h, err := dnsmap.NewHost(f.config())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context()); !errors.Is(err, dnsmap.ErrReadOnly) {
		t.Errorf("error %v", err)
	}
	undo(t, h)
	if f.read(t) != original {
		t.Error("the file was changed")
	}
	leftovers(t, f)
}

func TestFileNeedsPort53(t *testing.T) {
	f := newFile(t, original)
	cfg := f.config()
	cfg.Server = netip.MustParseAddrPort("127.0.0.153:5353")
	h, err := dnsmap.NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "port") {
		t.Errorf("error %v", err)
	}
	if f.read(t) != original {
		t.Error("the file was changed")
	}
}

func TestModes(t *testing.T) {
	for s, want := range map[string]dnsmap.Mode{"": dnsmap.ModeAuto, "auto": dnsmap.ModeAuto, "file": dnsmap.ModeFile, "none": dnsmap.ModeNone, "resolved": dnsmap.ModeResolved, "networkmanager": dnsmap.ModeNetworkManager, "resolvconf": dnsmap.ModeResolvconf} {
		if m, err := dnsmap.ParseMode(s); err != nil || m != want {
			t.Errorf("%q: %v, %v", s, m, err)
		}
	}
	if _, err := dnsmap.ParseMode("dnsmasq"); !errors.Is(err, dnsmap.ErrMode) || !strings.Contains(err.Error(), "unknown") {
		t.Error(err)
	}
	for name, cfg := range map[string]dnsmap.HostConfig{
		"mode":      {Mode: "netconfig", Server: netip.MustParseAddrPort("127.0.0.153:53")},
		"no server": {Mode: dnsmap.ModeFile},
		"zone":      {Mode: dnsmap.ModeNone, Zone: ".."},
	} {
		if _, err := dnsmap.NewHost(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNoneAndAutoChangeNothing(t *testing.T) {
	for mode, original := range map[dnsmap.Mode]string{dnsmap.ModeNone: original, dnsmap.ModeAuto: "### /etc/resolv.conf is a symlink, autogenerated by netconfig!\n" + original} {
		f := newFile(t, original)
		cfg := f.config()
		cfg.Mode = mode
		h, err := dnsmap.NewHost(cfg)
		if err != nil {
			t.Fatal(err)
		}
		report, err := h.Apply(t.Context())
		if err != nil || report.Mode != dnsmap.ModeNone || !strings.Contains(report.Advice, "--dns file") || !strings.Contains(report.Advice, "127.0.0.153") {
			t.Errorf("%s: %+v, %v", mode, report, err)
		}
		keep(t, h)
		if f.read(t) != original {
			t.Errorf("%s changed something", mode)
		}
		leftovers(t, f)
	}
}
