package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/atomicfile"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/localapi"
)

// Names of the files of a state directory.
const (
	keyFile   = "secret.key"
	saltFile  = "reset.salt"
	stateFile = "host-state.json"

	addressesFile = "addresses.json"
)

func (d *Daemon) checkPrivilege(context.Context) error { return CheckPrivilege() }

// CheckPrivilege returns ErrPrivilege if this process may not make network
// interfaces.
func CheckPrivilege() error {
	if !mayConfigureNetwork() {
		return ErrPrivilege
	}
	return nil
}

// openState makes this process the one node of its state directory.
func (d *Daemon) openState(context.Context) error {
	if err := MakeStateDir(d.cfg.StateDir); err != nil {
		return err
	}
	unlock, err := config.LockState(d.cfg.StateDir)
	if err != nil {
		return err
	}
	d.undo.add(func() error { unlock(); return nil })
	atomicfile.RemoveTemporaries(d.cfg.StateDir, leftover, keyFile, saltFile, stateFile, addressesFile, invitesFile, "peers.toml")
	if err := atomicfile.Writable(d.cfg.StateDir); err != nil {
		d.troubles.set(aboutState, "nothing can be saved: "+oneLine(err), "what changes from now on is lost at the next start")
	}
	return nil
}

// leftover is how old a temporary file is at least that nobody writes any more.
const leftover = time.Hour

// MakeStateDir sees that the state directory exists and is its owner's alone
// (S5). One that others may enter is refused and not changed: it may be a
// mistyped path.
func MakeStateDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("state directory: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("state directory: %w", err)
	case !info.IsDir():
		return fmt.Errorf("state directory: %s is no directory", dir)
	}
	if err := filecheck.Secret(dir, "it", info); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// controlStep is the place of openControl among what has to be undone.
const controlStep = 1

// openControl takes the control socket; see answerControl.
func (d *Daemon) openControl(context.Context) (err error) {
	if d.listener, err = localapi.Listen(d.cfg.Socket); err != nil {
		return err
	}
	d.undo.add(func() error { return errors.Join(localapi.Remove(d.cfg.Socket), d.listener.Close()) })
	return nil
}

func (d *Daemon) statePath() string { return filepath.Join(d.cfg.StateDir, stateFile) }

// cleanLeftovers takes back what a run that was killed left on the host.
func (d *Daemon) cleanLeftovers(context.Context) error {
	if err := CleanUp(d.cfg.StateDir); err != nil {
		d.log.Warn("names of an earlier run were not taken back", "err", err)
	}
	return nil
}

// readFiles reads identity, peers and addresses, before anything of the host is
// changed; a first start makes the key.
func (d *Daemon) readFiles(context.Context) (err error) {
	if d.key, err = LoadOrCreateKey(d.cfg.StateDir); err != nil {
		return err
	}
	d.salt, err = loadSalt(d.cfg.StateDir)
	switch {
	case errors.Is(err, errNoSalt):
		d.troubles.set(aboutSalt, oneLine(err), "nothing: peers notice a restart of this node a few seconds later, once")
	case err != nil:
		return err
	}
	d.store = newStore(d.cfg.StateDir, d.key.NodeID(), &d.cfg.Settings)
	if d.peers, err = d.store.file.Load(); err != nil {
		return err
	}
	d.files = config.NewAddressFile(d.cfg.StateDir)
	d.good, err = d.files.Load()
	if errors.Is(err, config.ErrBadFile) { // only a memory of addresses
		d.troubles.set(aboutAddresses, oneLine(setAside(filepath.Join(d.cfg.StateDir, addressesFile), err)),
			"nothing: it holds where peers were last, and their IPv4 addresses here, which may now be others")
		return nil
	}
	return err
}

// setAside moves a broken file out of the way and returns cause with what was done.
func setAside(path string, cause error) error {
	if err := os.Rename(path, path+".broken"); err != nil {
		return fmt.Errorf("%w; %w", cause, err)
	}
	return fmt.Errorf("%w; it was set aside as %s.broken", cause, filepath.Base(path))
}

// KeyPath returns where a state directory keeps the secret key.
func KeyPath(stateDir string) string { return filepath.Join(stateDir, keyFile) }

// LoadOrCreateKey returns the identity of a state directory; a node that has
// none yet gets both.
func LoadOrCreateKey(stateDir string) (*identity.SecretKey, error) {
	key, err := identity.LoadSecretKey(KeyPath(stateDir))
	if errors.Is(err, identity.ErrBadKeyFile) {
		return nil, fmt.Errorf("%w (put a backup of it back; without one move the file away: this machine then gets a new id, which its peers must add)", err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := MakeStateDir(stateDir); err != nil {
		return nil, err
	}
	key, err = identity.CreateSecretKey(KeyPath(stateDir))
	if errors.Is(err, fs.ErrExist) { // somebody else was faster
		return identity.LoadSecretKey(KeyPath(stateDir))
	}
	return key, err
}

// hostName is the host's own name, the first label of it in lower case.
func hostName() string {
	host, _ := os.Hostname()
	name, _, _ := strings.Cut(strings.ToLower(host), ".")
	return name
}

// ownName is the node's name: as set, else the host's if it can be one, else
// none.
func ownName(set string) string {
	if set != "" {
		return strings.ToLower(set)
	}
	if name := hostName(); dnsmap.ValidPetname(name) == nil {
		return name
	}
	return ""
}
