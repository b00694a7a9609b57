package daemon

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodetun/nodetun/internal/atomicfile"
)

// resetSalt is the file of the salt of stateless resets (S4). It is renewed
// when the machine is another one, such as a copy of this one's disk.
type resetSalt struct {
	Salt      []byte `json:"salt"`
	MachineID string `json:"machine_id"`
}

// saltLen is the length of the salt in bytes.
const saltLen = 32

// loadSalt reads the salt of a state directory, or makes one. A file that is
// broken or that others can read is refused and left alone (S5).
func loadSalt(stateDir string) ([]byte, error) {
	path, machine := filepath.Join(stateDir, saltFile), machineID()
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newSalt(path, machine)
	}
	if err != nil {
		return nil, fmt.Errorf("reset salt: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reset salt: %w", err)
	}
	if othersMay(info.Mode()) {
		return nil, fmt.Errorf("%s: others can read it (try: chmod 600 %s)", path, path)
	}
	var kept resetSalt
	if json.Unmarshal(b, &kept) != nil || len(kept.Salt) != saltLen {
		return nil, fmt.Errorf("%s: holds no salt (remove it: a new one is made)", path)
	}
	if kept.MachineID != machine {
		return newSalt(path, machine)
	}
	return kept.Salt, nil
}

func newSalt(path, machine string) ([]byte, error) {
	fresh := resetSalt{Salt: make([]byte, saltLen), MachineID: machine}
	rand.Read(fresh.Salt)
	b, err := json.Marshal(fresh)
	if err == nil {
		err = atomicfile.Write(path, append(b, '\n'), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("reset salt: %w", err)
	}
	return fresh.Salt, nil
}

// machineID is what systemd calls it; empty where there is none.
func machineID() string {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
