package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/nodetun/nodetun/identity"
)

// relayProcess is the relay under test.
type relayProcess struct {
	url identity.RelayURL
	cmd *exec.Cmd
}

func startRelay(program string) (*relayProcess, error) {
	cmd := exec.Command(program, "relay", "--dev", "--addr", "127.0.0.1:0", "--stun-addr", "none")
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

// memory is the resident set in bytes (proc(5), status).
func (r *relayProcess) memory() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// ticks is how many parts of a second the times in stat have (proc(5)).
const ticks = 100

// cpu is what the process used so far, in seconds (proc(5), stat).
func (r *relayProcess) cpu() (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	const utime, stime = 11, 12
	if len(fields) <= stime {
		return 0, errors.New("no times")
	}
	user, err1 := strconv.ParseFloat(fields[utime], 64)
	system, err2 := strconv.ParseFloat(fields[stime], 64)
	return (user + system) / ticks, errors.Join(err1, err2)
}
