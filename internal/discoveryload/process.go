package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/internal/procstat"
)

// server is `nodetun discovery` in a process of its own.
type server struct {
	cmd      *exec.Cmd
	url, dns string
	http     *http.Client
}

// startServer runs the program on free ports and waits until it says which.
func startServer(program, store string) (*server, error) {
	args := []string{"discovery", "--dev", "--addr", "127.0.0.1:0", "--dns-addr", "127.0.0.1:0"}
	if store != "" {
		args = append(args, "--store", store)
	}
	s := &server{cmd: exec.Command(program, args...), http: newHTTP(256)}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		if _, at, ok := strings.Cut(line, "over HTTP on "); ok {
			s.url = at
		}
		if at, ok := strings.CutPrefix(line, "dns on "); ok {
			s.dns = at
		}
		if strings.HasPrefix(line, "store in ") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return s, nil
		}
	}
	s.stop()
	return nil, fmt.Errorf("the server did not start: %w", lines.Err())
}

func (s *server) stop() {
	s.http.CloseIdleConnections()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// memory is the resident set in bytes, spent the processor time so far.
func (s *server) memory() (int64, error)        { return procstat.Memory(s.cmd.Process.Pid) }
func (s *server) spent() (time.Duration, error) { return procstat.Spent(s.cmd.Process.Pid) }
