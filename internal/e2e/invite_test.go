//go:build linux

package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// invite makes an invite on a host and returns its text.
func invite(t *testing.T, h *hosttest.Host, args ...string) string {
	t.Helper()
	out := h.Nodetun(t, append([]string{"invite"}, args...)...)
	line := regexp.MustCompile(`(?m)^sudo nodetun join (nt1\w+)$`).FindStringSubmatch(out)
	if line == nil {
		t.Fatalf("invite says:\n%s", out)
	}
	return line[1]
}

// Two blank machines behind NATs: one line on each, and ssh works in both directions.
func TestNetnsInvite(t *testing.T) {
	t.Parallel()
	n := hosttest.NewInternet(t)
	n.StartRelay(t, 0)
	a, b, c := hosttest.New(t, "a"), hosttest.New(t, "b"), hosttest.New(t, "c")
	n.Router(t, hosttest.RouterConfig{Kind: hosttest.Easy}).Join(t, a)
	n.Router(t, hosttest.RouterConfig{Kind: hosttest.Symmetric, LAN: 2}).Join(t, b)
	n.Join(t, c)
	a.Start(t, "--relay", hosttest.RelayURL(0), "--discovery", "none", "--name", "alice")
	b.Start(t, "--relay", hosttest.RelayURL(0), "--discovery", "none", "--name", "bob")
	c.Start(t, "--relay", hosttest.RelayURL(0), "--discovery", "none", "--name", "carol")
	_, toA := a.Sshd(t)
	_, toB := b.Sshd(t)

	began := time.Now()
	text := invite(t, a)
	out := b.Nodetun(t, "join", text)
	t.Logf("join:\n%s", out)
	if !strings.Contains(out, "joined alice") || !strings.Contains(out, "it may reach here: tcp/22 icmp") {
		t.Errorf("join says:\n%s", out)
	}
	b.SSHWorks(t, toA, "alice.node.internal")
	a.SSHWorks(t, toB, "bob.node.internal")
	if took := time.Since(began); took > nstest.Slack*10*time.Second {
		t.Errorf("from the invite to ssh: %v", took)
	}
	t.Logf("from the invite to ssh: %v", time.Since(began).Round(time.Millisecond))
	if p := a.Status(t).Peers; len(p) != 1 || p[0].Name != "bob" {
		t.Errorf("the inviter's peers: %+v", p)
	}
	if out, code := c.Try(t, "join", "-"); code != 1 || !strings.Contains(out, "the standard input holds no invite") {
		t.Errorf("nothing on standard input: exit %d\n%s", code, out)
	}
	// It was for one.
	if out, code := c.Try(t, "join", text); code != 6 || !strings.Contains(out, "refused: the invite was used already (make another one there: sudo nodetun invite)") {
		t.Errorf("a second use: exit %d\n%s", code, out)
	}
	// Who joined already may do so again: its answer may have got lost.
	if out := b.Nodetun(t, "join", text); !strings.Contains(out, "joined alice") {
		t.Errorf("again:\n%s", out)
	}
	short := invite(t, a, "--for", "1s", "--name", "carol")
	time.Sleep(1100 * time.Millisecond) // it is to be over
	if out, code := c.Try(t, "join", short); code != 6 || !strings.Contains(out, "refused: the invite has expired") {
		t.Errorf("one that is over: exit %d\n%s", code, out)
	}
	fresh := invite(t, a, "--allow", "https", "--name", "charlotte")
	flipped := []byte(fresh)
	flipped[20] ^= 1
	for what, want := range map[string]string{
		string(flipped):           "the invite is damaged",
		fresh[:len(fresh)-3]:      "the invite is damaged",
		"node" + fresh:            "not an invite",
		strings.ToUpper(text[:9]): "the invite is damaged",
	} {
		if out, code := c.Try(t, "join", what); code != 2 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d\n%s", what, code, out)
		}
	}
	if out, code := a.Try(t, "join", fresh); code != 2 || !strings.Contains(out, "this node's own") {
		t.Errorf("its own: exit %d\n%s", code, out)
	}
	if out := c.Nodetun(t, "join", fresh, "--name", "boss", "--allow", "icmp"); !strings.Contains(out, "joined boss") || !strings.Contains(out, "reach here: icmp\n") {
		t.Errorf("join says:\n%s", out)
	}
	if out := a.Nodetun(t, "peer", "ls"); !regexp.MustCompile(`charlotte +\w+ +tcp/443`).MatchString(out) {
		t.Errorf("peers:\n%s", out)
	}
	// S24: the secret is in no log.
	for _, h := range []*hosttest.Host{a, b, c} {
		for _, secret := range []string{text, fresh} {
			if strings.Contains(h.Up.Output(), secret[:30]) {
				t.Errorf("the log of %s holds an invite", h.NS.Name)
			}
		}
	}
}

// S24: who guesses is not listened to after five times, and others still get in.
func TestNetnsInviteGuessed(t *testing.T) {
	t.Parallel()
	n := hosttest.NewInternet(t)
	a, b, c := hosttest.New(t, "a"), hosttest.New(t, "b"), hosttest.New(t, "c")
	for _, h := range []*hosttest.Host{a, b, c} {
		n.Join(t, h)
		h.Start(t, "--relay", "none", "--discovery", "none")
	}
	text := invite(t, a)
	wrong, err := identity.ParseInvite(text)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 6 {
		wrong.Secret[0]++
		began := time.Now()
		out, code := c.Try(t, "join", identity.FormatInvite(wrong))
		if code == 0 {
			t.Fatalf("let in:\n%s", out)
		}
		if strings.Contains(out, "refused: that secret is not one of this node's invites") {
			refused++
		} else if !regexp.MustCompile(`no answer from|listens to nobody|try again`).MatchString(out) {
			t.Errorf("exit %d after %v:\n%s", code, time.Since(began), out)
		}
		time.Sleep(time.Second) // so many are looked at
	}
	if refused != 5 {
		t.Errorf("told %d times", refused)
	}
	if out := a.Nodetun(t, "peer", "ls"); !strings.Contains(out, "no peers") {
		t.Errorf("peers:\n%s", out)
	}
	if out := b.Nodetun(t, "join", text); !strings.Contains(out, "joined ") {
		t.Errorf("who has the secret:\n%s", out)
	}
}
