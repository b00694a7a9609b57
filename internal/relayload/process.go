package main

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/procstat"
)

// relayProcess is the relay under test.
type relayProcess struct {
	url identity.RelayURL
	cmd *exec.Cmd
}

// startRelay starts one without limits.
func startRelay(program string) (*relayProcess, error) {
	return startRelayWith(program, "--dev", "--addr", "127.0.0.1:0", "--stun-addr", "none")
}

func startRelayWith(program string, args ...string) (*relayProcess, error) {
	cmd := exec.Command(program, append([]string{"relay"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &relayProcess{cmd: cmd}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		address, ok := strings.CutPrefix(strings.TrimSpace(line), "relay on ")
		if !ok {
			err = fmt.Errorf("the relay says %q", line)
		} else {
			r.url, err = identity.ParseRelayURL("http://" + address)
		}
	}
	if err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *relayProcess) stop() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	_ = r.cmd.Wait()
}

// memory is the resident set in bytes.
func (r *relayProcess) memory() (int64, error) { return procstat.Memory(r.cmd.Process.Pid) }

// cpu is what the process used so far, in seconds.
func (r *relayProcess) cpu() (float64, error) {
	spent, err := procstat.Spent(r.cmd.Process.Pid)
	return spent.Seconds(), err
}
