//go:build linux

package localapi_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nodetun/nodetun/internal/localapi"
)

// open answers everything with success: what is refused, the server refused.
type open struct{ localapi.Backend }

func (open) Status(context.Context) (localapi.Status, error)     { return localapi.Status{}, nil }
func (open) Peers(context.Context) ([]localapi.PeerEntry, error) { return nil, nil }
func (open) Ping(context.Context, localapi.PingRequest) (localapi.Ping, error) {
	return localapi.Ping{}, nil
}

func (open) AddPeer(context.Context, localapi.AddRequest) (localapi.AddResult, error) {
	return localapi.AddResult{}, nil
}

func (open) Forget(context.Context, string) (localapi.PeerEntry, error) {
	return localapi.PeerEntry{}, nil
}

func (open) Allow(context.Context, localapi.RulesRequest) (localapi.PeerEntry, error) {
	return localapi.PeerEntry{}, nil
}

func (open) Deny(context.Context, localapi.RulesRequest) (localapi.PeerEntry, error) {
	return localapi.PeerEntry{}, nil
}
func (open) Reload(context.Context) error { return nil }
func (open) Down(context.Context) error   { return nil }

// asker names the environment variable that makes a copy of this test ask.
const asker = "NODETUN_TEST_SOCKET"

// TestAsk is no test by itself: another process, with other credentials, asks
// the socket named by the environment everything and prints what it may do.
func TestAsk(t *testing.T) {
	socket := os.Getenv(asker)
	if socket == "" {
		t.Skip("runs as a part of TestRealCredentials")
	}
	c, ctx := localapi.NewClient(socket), t.Context()
	questions := []struct {
		name string
		ask  func() error
	}{
		{"status", func() error { _, err := c.Status(ctx); return err }},
		{"ping", func() error { _, err := c.Ping(ctx, localapi.PingRequest{}); return err }},
		{"add", func() error { _, err := c.AddPeer(ctx, localapi.AddRequest{}); return err }},
		{"allow", func() error { _, err := c.Allow(ctx, localapi.RulesRequest{}); return err }},
		{"deny", func() error { _, err := c.Deny(ctx, localapi.RulesRequest{}); return err }},
		{"forget", func() error { _, err := c.Forget(ctx, "x"); return err }},
		{"reload", func() error { return c.Reload(ctx) }},
		{"down", func() error { return c.Down(ctx) }},
	}
	for _, q := range questions {
		err := q.ask()
		if err != nil && localapi.KindOf(err) != localapi.KindForbidden {
			t.Errorf("%s: %v", q.name, err)
		}
		if err == nil {
			fmt.Printf("may:%s\n", q.name)
		}
	}
}

// S25: processes with real credentials ask. The socket is opened to everybody
// here, so that only the check of credentials stands between.
func TestRealCredentials(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become other users: run scripts/test as root (sudo ./scripts/test)")
	}
	dir, err := os.MkdirTemp("/tmp", "nodetun-s25-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "nodetun.sock")
	listener, err := localapi.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	serve(t, listener)
	binary := filepath.Join(dir, "asker")
	if err := copyFile(os.Args[0], binary); err != nil {
		t.Fatal(err)
	}

	const everything, reading = "status ping add allow deny forget reload down", "status ping"
	cases := []struct {
		name string
		cred syscall.Credential
		want string
	}{
		{"root", syscall.Credential{}, everything},
		{"somebody", syscall.Credential{Uid: 65534, Gid: 65534}, ""},
		{"somebody in the group of root", syscall.Credential{Uid: 65534, Gid: 0}, ""},
	}
	if group, err := user.LookupGroup(localapi.Group); err == nil {
		gid, err := strconv.ParseUint(group.Gid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, []struct {
			name string
			cred syscall.Credential
			want string
		}{
			{"primary group", syscall.Credential{Uid: 65534, Gid: uint32(gid)}, reading},
			{"supplementary group", syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{1, 2, uint32(gid)}}, reading},
		}...)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^TestAsk$", "-test.v")
			cmd.Dir, cmd.Env = dir, []string{asker + "=" + socket}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &tc.cred}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var may []string
			for line := range strings.Lines(string(out)) {
				if name, ok := strings.CutPrefix(strings.TrimSpace(line), "may:"); ok {
					may = append(may, name)
				}
			}
			if got := strings.Join(may, " "); got != tc.want {
				t.Errorf("may %q, want %q", got, tc.want)
			}
		})
	}
}

func serve(t *testing.T, listener net.Listener) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- localapi.NewServer(localapi.ServerConfig{Backend: open{}}).Run(ctx, listener)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}
