package daemon

import (
	"path/filepath"

	"github.com/nodetun/nodetun/dnsmap"
)

// CleanUp takes back what a run that crashed left on the host. Interface,
// addresses and routes went with its process; settings of names may not have.
func CleanUp(stateDir string) error {
	return dnsmap.Restore(filepath.Join(stateDir, stateFile), "")
}
