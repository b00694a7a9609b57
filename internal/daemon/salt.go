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

// loadSalt reads the salt of a state directory, or makes one.
func loadSalt(stateDir string) ([]byte, error) {
	path := filepath.Join(stateDir, saltFile)
	machine := machineID()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reset salt: %w", err)
	}
	var kept resetSalt
	if err == nil && json.Unmarshal(b, &kept) == nil && len(kept.Salt) == saltLen && kept.MachineID == machine {
		return kept.Salt, nil
	}
	fresh := resetSalt{Salt: make([]byte, saltLen), MachineID: machine}
	rand.Read(fresh.Salt)
	if b, err = json.Marshal(fresh); err != nil {
		return nil, fmt.Errorf("reset salt: %w", err)
	}
	if err := atomicfile.Write(path, append(b, '\n'), 0o600); err != nil {
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
