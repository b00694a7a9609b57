//go:build linux

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// patience bounds each command to an iroh node.
const patience = time.Minute

// iroh is a real iroh node in a process of its own.
type iroh struct {
	t  *testing.T
	in io.Writer

	mu      sync.Mutex // guards the fields below
	n       int
	waiting map[int]chan answer
	over    error // the process has ended

	addr address
}

// address is where an iroh node is.
type address struct {
	ID     string   `json:"id,omitempty"`
	Relay  string   `json:"relay,omitempty"`
	Direct []string `json:"direct,omitempty"`
}

type answer struct {
	address
	N          int    `json:"n"`
	Error      string `json:"error"`
	Connection int    `json:"connection"`
	Remote     string `json:"remote"`
	Path       string `json:"path"`
	Details    string `json:"details"`
	Reason     string `json:"reason"`
	Count      int    `json:"count"`
}

// args are those of a command.
type args map[string]any

// startIroh starts a node of version "0.28" or "1".
func startIroh(t *testing.T, version string, start args) *iroh {
	t.Helper()
	return startIrohIn(t, version, start, nil)
}

// startIrohIn starts one in a namespace of its own, which settle then furnishes.
func startIrohIn(t *testing.T, version string, start args, settle func(t *testing.T, pid int)) *iroh {
	t.Helper()
	cmd := exec.Command("node", "node.mjs", version)
	cmd.Dir = "node"
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if settle != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if settle != nil {
		settle(t, cmd.Process.Pid)
	}
	i := &iroh{t: t, in: in, waiting: make(map[int]chan answer)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		i.read(out)
	}()
	t.Cleanup(func() {
		_ = in.Close()
		slow := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer slow.Stop()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("iroh %s: %v", version, err)
		}
	})
	if start == nil {
		start = args{}
	}
	i.addr = i.must("start", start).address
	return i
}

// read takes answers until the process ends.
func (i *iroh) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			i.t.Errorf("iroh says %q", lines.Text())
			continue
		}
		i.mu.Lock()
		if ch := i.waiting[a.N]; ch != nil {
			ch <- a
			delete(i.waiting, a.N)
		}
		i.mu.Unlock()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = errors.New("the iroh node has ended")
	for n, ch := range i.waiting {
		ch <- answer{Error: i.over.Error()}
		delete(i.waiting, n)
	}
}

// do runs a command.
func (i *iroh) do(name string, with args) (answer, error) { return i.doWithin(patience, name, with) }

func (i *iroh) doWithin(limit time.Duration, name string, with args) (answer, error) {
	ch := make(chan answer, 1)
	i.mu.Lock()
	if i.over != nil {
		i.mu.Unlock()
		return answer{}, i.over
	}
	i.n++
	command := args{"n": i.n, "do": name}
	for k, v := range with {
		command[k] = v
	}
	i.waiting[i.n] = ch
	line, err := json.Marshal(command)
	if err == nil {
		_, err = fmt.Fprintf(i.in, "%s\n", line)
	}
	i.mu.Unlock()
	if err != nil {
		return answer{}, err
	}
	select {
	case a := <-ch:
		if a.Error != "" {
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-time.After(limit):
		return answer{}, fmt.Errorf("%s: no answer", name)
	}
}

// must runs a command that has to work.
func (i *iroh) must(name string, with args) answer {
	i.t.Helper()
	a, err := i.do(name, with)
	if err != nil {
		i.t.Fatalf("iroh: %s %v: %v", name, with, err)
	}
	return a
}

// connect dials and returns the number of the connection.
func (i *iroh) connect(to address) int {
	i.t.Helper()
	return i.must("connect", to.args()).Connection
}

func (a address) args() args {
	with := args{"id": a.ID, "direct": []string{}}
	if a.Relay != "" {
		with["relay"] = a.Relay
	}
	if len(a.Direct) > 0 {
		with["direct"] = a.Direct
	}
	return with
}

// talk sends much on a stream and a datagram, which come back.
func (i *iroh) talk(connection int) {
	i.t.Helper()
	i.must("echo", args{"connection": connection, "size": 1 << 20})
	i.must("datagram", args{"connection": connection, "size": 1000})
}

// nodeAddr is the address as our endpoint wants it.
func (a address) nodeAddr(t *testing.T) identity.NodeAddr {
	t.Helper()
	id, err := identity.ParseNodeID(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	n := identity.NodeAddr{ID: id}
	if a.Relay != "" {
		if n.Relay, err = identity.ParseRelayURL(a.Relay); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range a.Direct {
		ap, err := netip.ParseAddrPort(d)
		if err != nil {
			t.Fatal(err)
		}
		n.Direct = append(n.Direct, ap)
	}
	return n
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
