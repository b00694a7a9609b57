package daemon

import (
	"errors"
	"path/filepath"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/routing"
)

// CleanUp takes back what a run that crashed left on the host. Interface,
// addresses and routes went with its process; settings of names and the packet filter may
// not have.
func CleanUp(stateDir string) error {
	return errors.Join(dnsmap.Restore(filepath.Join(stateDir, stateFile), ""), routing.CleanUp())
}
