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
	"github.com/nodetun/nodetun/internal/filecheck"
)

// resetSalt is the file of the salt of stateless resets (S4). It is renewed
// when the machine is another one, such as a copy of this one's disk.
type resetSalt struct {
	Salt      []byte `json:"salt"`
	MachineID string `json:"machine_id"`
}

// saltLen is the length of the salt in bytes.
const saltLen = 32

// errNoSalt is wrapped by the error of loadSalt that comes with a fresh salt.
var errNoSalt = errors.New("no salt of stateless resets from the last run")

// loadSalt reads the salt of a state directory, or makes one. A file that is broken is
// set aside, and where none can be written the salt is that of this run alone: both are
// told by errNoSalt beside it. A file that others can read is refused (S5).
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
	if err := filecheck.Secret(path, "it", info); err != nil {
		return nil, err
	}
	var kept resetSalt
	if json.Unmarshal(b, &kept) != nil || len(kept.Salt) != saltLen {
		aside := setAside(path, fmt.Errorf("%w: %s holds none", errNoSalt, path))
		salt, err := newSalt(path, machine)
		return salt, errors.Join(aside, err)
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
		return fresh.Salt, fmt.Errorf("%w, and none could be kept for the next: %w", errNoSalt, err)
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
