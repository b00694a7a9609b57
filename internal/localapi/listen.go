package localapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/nodetun/nodetun/internal/filecheck"
)

// ErrRunning says that another node has the socket.
var ErrRunning = errors.New("already running")

// Group is the group whose members may read.
const Group = "nodetun"

// Listen makes the socket, and its directory if need be, with the access that
// S25 asks for. A socket that nobody listens on is replaced; one that answers is
// left alone and the error wraps ErrRunning. Closing the listener does not
// remove the socket: that is for the caller, when everything else is undone.
func Listen(socket string) (*net.UnixListener, error) {
	running, err := NewClient(socket).Running()
	if running {
		return nil, fmt.Errorf("%w: another node uses %s (try: nodetun status, nodetun down)", ErrRunning, socket)
	}
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(socket)
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(socket); err == nil && info.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is no socket (move it away, or choose another with --socket)", socket)
	}
	if err := RemoveStale(socket); err != nil {
		return nil, err
	}
	return listenIn(dir, socket)
}

// listenIn binds the socket where only its owner can reach it, and moves it to its place when
// its access is set: there is no moment in which others could connect.
func listenIn(dir, socket string) (*net.UnixListener, error) {
	private, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	bound := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: bound, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	err = protect(bound, 0o660)
	if err == nil {
		err = os.Rename(bound, socket)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// Remove removes the socket; one that is gone already is fine.
func Remove(socket string) error {
	if err := os.Remove(socket); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeDir makes the directory of the socket. One that exists keeps its access, and is refused
// if others could put a socket of theirs in the place of ours (S5); in /tmp they cannot.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if info.Mode()&fs.ModeSticky != 0 {
			return nil
		}
		return filecheck.Trusted(dir, info)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return protect(dir, 0o750)
}

// protect sets mode and group. A system without the group leaves it to the
// owner alone.
func protect(path string, mode fs.FileMode) error {
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	if gid, ok := groupID(); ok && os.Geteuid() == 0 {
		return os.Chown(path, -1, gid)
	}
	return nil
}

// groupID looks the group up; most systems have none of that name.
func groupID() (int, bool) {
	group, err := user.LookupGroup(Group)
	if err != nil {
		return 0, false
	}
	gid, err := strconv.Atoi(group.Gid)
	return gid, err == nil
}
