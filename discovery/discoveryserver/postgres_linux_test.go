package discoveryserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery/pkarr"
)

// database is a PostgreSQL of the test, which is reached by a socket in its directory.
type database struct {
	url  string
	bin  string
	dir  string
	as   *syscall.SysProcAttr
	proc *exec.Cmd
}

// newDatabase makes a database and starts it; the test skips where there is no PostgreSQL.
func newDatabase(t *testing.T) *database {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(bins) == 0 {
		t.Skip("needs PostgreSQL (scripts/test installs it)")
	}
	dir, err := os.MkdirTemp("", "nodetun-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &database{bin: filepath.Dir(bins[len(bins)-1]), dir: dir, as: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}}
	if os.Geteuid() == 0 { // it refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("needs the user postgres")
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		d.as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	d.url = fmt.Sprintf("postgres://test@/postgres?host=%s", dir)
	d.run(t, "initdb", "-A", "trust", "-U", "test", "-N", "-D", filepath.Join(dir, "data"))
	d.start(t)
	t.Cleanup(d.kill)
	return d
}

func (d *database) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(d.bin, program), args...)
	cmd.SysProcAttr, cmd.Dir = d.as, d.dir
	return cmd
}

func (d *database) run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := d.command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// start runs the database and waits until it answers.
func (d *database) start(t *testing.T) {
	t.Helper()
	d.proc = d.command("postgres", "-D", filepath.Join(d.dir, "data"), "-k", d.dir, "-c", "listen_addresses=")
	if err := d.proc.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for d.command("pg_isready", "-h", d.dir, "-U", "test", "-d", "postgres").Run() != nil {
		if time.Now().After(deadline) {
			t.Fatal("PostgreSQL does not answer")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends the database as a crash does.
func (d *database) kill() {
	if d.proc != nil {
		_ = syscall.Kill(-d.proc.Process.Pid, syscall.SIGKILL) // and what it started
		_ = d.proc.Wait()
		d.proc = nil
	}
}

func (d *database) open(t *testing.T) Store {
	t.Helper()
	s, err := OpenPostgres(context.Background(), d.url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPostgres(t *testing.T) {
	d := newDatabase(t)
	t.Run("conforms", func(t *testing.T) { storeConforms(t, d.open) })
	t.Run("two servers", func(t *testing.T) { twoServers(t, d) })
	if _, err := OpenPostgres(t.Context(), "postgres://me:secret@[::1"); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Two servers over one database: what one takes the other tells. When the database is
// killed packets are refused at once, the DNS goes on, and what was acknowledged is there
// when it comes back.
func twoServers(t *testing.T, d *database) {
	a, b := run(t, Config{Store: d.open(t), PutsPerSecond: -1}), run(t, Config{Store: d.open(t), PutsPerSecond: -1})
	n := newNode(t)
	first, second := n.at(t, time.Now(), 1), n.at(t, time.Now().Add(time.Second), 2)
	if err := clientOf(a).Put(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if p, err := clientOf(b).Get(t.Context(), n.id); err != nil || string(p.Payload()) != string(first.Payload()) {
		t.Errorf("the other server: %v", err)
	}
	name := "_iroh." + n.id.Z32() + "."
	if res := ask(t, b, "udp", name, dns.TypeTXT); len(res.Answer) != 1 {
		t.Errorf("its DNS: %v", res)
	}
	if err := clientOf(b).Put(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if err := clientOf(a).Put(t.Context(), first); !errors.Is(err, pkarr.ErrOld) {
		t.Errorf("an older packet: %v", err)
	}

	// Many packets while the database is killed.
	acknowledged := make(chan pkarr.Packet, 10000)
	stop := make(chan struct{})
	done := make(chan struct{}, 4)
	for range cap(done) {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := newNode(t).at(t, time.Now(), 9)
				if clientOf(a).Put(context.Background(), p) == nil {
					acknowledged <- p
				}
			}
		}()
	}
	for deadline := time.Now().Add(time.Minute); len(acknowledged) < 200; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d packets in a minute", len(acknowledged))
		}
	}
	d.kill()
	close(stop)
	for range cap(done) {
		<-done
	}
	close(acknowledged)
	var busy *pkarr.BusyError
	began := time.Now()
	if err := clientOf(a).Put(t.Context(), n.at(t, time.Now().Add(2*time.Second), 3)); !errors.As(err, &busy) {
		t.Errorf("without the database: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the refusal took %v", took)
	}
	for _, s := range []*Server{a, b} { // one has it from a packet that was put, one from a question
		if res := ask(t, s, "udp", name, dns.TypeTXT); len(res.Answer) != 1 {
			t.Errorf("DNS without the database: %v", res)
		}
	}
	d.start(t)
	for p := range acknowledged {
		if got, err := clientOf(b).Get(t.Context(), p.ID()); err != nil || string(got.Payload()) != string(p.Payload()) {
			t.Errorf("an acknowledged packet: %v", err)
		}
	}
	if p, err := clientOf(a).Get(t.Context(), n.id); err != nil || p.Addr().Direct[0].Port() != 2 {
		t.Errorf("the newest packet: %v, %v", p.Addr(), err)
	}
	http.DefaultClient.CloseIdleConnections()
}
