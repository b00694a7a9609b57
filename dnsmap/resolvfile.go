package dnsmap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/nodetun/nodetun/internal/atomicfile"
)

// resolvFile is mode file, and the modes named after programs that write resolv.conf:
// those write it when something changes, and our line is back a moment later. A record of
// ours among theirs would do instead, but both programs called resolvconf then leave all
// other servers out, so that a node that was killed took the host's names with it, and
// NetworkManager has none for links that it did not make.
type resolvFile struct {
	cfg     HostConfig
	mode    Mode
	written *fileState // nil before the first change

	watch *fileWatch // nil where the system does not tell of changes
	found []string
}

// fileState is what StatePath holds: enough to take our lines out of a file
// that was left half written by a crash.
type fileState struct {
	// Path is the file that was written, no symbolic link.
	Path string `json:"path"`
	// Existed is false when we made the file.
	Existed bool `json:"existed"`
	// Original is the content before, Written the content after our change.
	Original []byte `json:"original"`
	Written  []byte `json:"written"`
}

func newResolvFile(cfg HostConfig, mode Mode) *resolvFile { return &resolvFile{cfg: cfg, mode: mode} }

func (r *resolvFile) servers() []string { return r.found }

func (r *resolvFile) listen() <-chan struct{} {
	path, _ := follow(r.cfg.ResolvConf)
	if r.watch = watchFile(r.watch, r.cfg.ResolvConf, path); r.watch == nil {
		return nil
	}
	return r.watch.changed
}

func (r *resolvFile) deafen() {
	r.watch.close()
	r.watch = nil
}

func (r *resolvFile) apply(context.Context) (changed bool, err error) {
	if r.cfg.Server.Port() != 53 {
		return false, fmt.Errorf("dnsmap: %w, and the server listens on %s", ErrPort, r.cfg.Server)
	}
	path, current, existed, err := r.look()
	if err != nil {
		return false, err
	}
	base := stripBlocks(current)
	r.learn(base)
	want := addBlocks(base, r.cfg.Server.Addr(), r.search(), r.cfg.Alone)
	there := bytes.Equal(current, want)
	if there && r.written != nil && r.written.Path == path {
		return false, nil
	}
	state := fileState{Path: path, Existed: existed, Original: base, Written: want}
	switch {
	case r.written == nil:
	case r.written.Path == path:
		state.Existed = r.written.Existed
	default: // another file is resolv.conf now
		if err := restoreFile(*r.written); err != nil {
			return false, err
		}
	}
	if err := r.save(state); err != nil {
		return false, err
	}
	r.written = &state
	if there { // by a run of which nothing else is left
		return false, nil
	}
	switch err := writeFile(path, want); {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return false, fmt.Errorf("dnsmap: write %s: %w: %w", path, ErrReadOnly, err)
	case err != nil:
		return false, fmt.Errorf("dnsmap: write %s: %w", path, err)
	}
	return true, nil
}

// look reads the file that is to be changed. One that a program manages is an error, unless
// that program's mode is this one, or this is mode file and changing it does no harm.
func (r *resolvFile) look() (path string, current []byte, existed bool, err error) {
	path, current, existed, err = readResolvConf(r.cfg.ResolvConf)
	if err != nil {
		return path, nil, false, err
	}
	w := writerOf(path, stripBlocks(current))
	switch {
	case w != nil && !existed:
		return path, nil, existed, fmt.Errorf("%w: %s is %s's, and is not there", ErrManaged, path, w.program)
	case w != nil && w.mode == ModeResolved && w.owns(path):
		return path, nil, existed, fmt.Errorf("%w: %s is %s's (use --dns resolved)", ErrManaged, path, w.program)
	case r.mode == ModeFile || w != nil && w.mode == r.mode:
		return path, current, existed, nil
	case w == nil:
		return path, nil, existed, fmt.Errorf("%w %s: it does not write %s (use --dns auto)", ErrMode, r.mode, path)
	default:
		return path, nil, existed, fmt.Errorf("%w: %s is %s's", ErrManaged, path, w.program)
	}
}

// readResolvConf reads a resolv.conf and says which file it is, links followed. It need not
// exist.
func readResolvConf(name string) (path string, content []byte, existed bool, err error) {
	if path, err = follow(name); err != nil {
		return path, nil, false, err
	}
	content, err = os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return path, nil, false, fmt.Errorf("dnsmap: %w", err)
	}
	return path, content, err == nil, nil
}

func (r *resolvFile) search() string {
	if !r.cfg.Search {
		return ""
	}
	return strings.TrimSuffix(r.cfg.Zone, ".")
}

func (r *resolvFile) learn(base []byte) {
	own := r.cfg.Server.Addr().String()
	var found []string
	for _, s := range nameservers(base) {
		if s != own {
			found = append(found, s)
		}
	}
	r.found = found
}

// follow follows symbolic links to a file, which need not exist.
func follow(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return path, fmt.Errorf("dnsmap: %w", err)
		}
		return target, nil
	}
	target, err = os.Readlink(path)
	if err != nil { // no link
		return path, nil
	}
	if !filepath.IsAbs(target) { // dangling: its maker does not run
		target = filepath.Join(filepath.Dir(path), target)
	}
	return target, nil
}

func (r *resolvFile) save(state fileState) error {
	if r.cfg.StatePath == "" {
		return nil
	}
	b, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("dnsmap: %w", err)
	}
	if err := atomicfile.Write(r.cfg.StatePath, b, 0o600); err != nil {
		return fmt.Errorf("dnsmap: keep the original of %s: %w", state.Path, err)
	}
	return nil
}

func (r *resolvFile) undo(context.Context) error {
	if r.written == nil {
		return nil
	}
	if err := restoreFile(*r.written); err != nil {
		return err
	}
	r.written = nil
	if r.cfg.StatePath == "" {
		return nil
	}
	return removeState(r.cfg.StatePath)
}

// Restore takes our lines out of the resolv.conf that a run noted in its state
// file, and removes the state file. Lines that others wrote meanwhile stay. Where the
// state file is missing or broken our lines are known by their marks: they go from
// resolvConf, empty for that of the host, in any case.
func Restore(statePath, resolvConf string) error {
	b, err := os.ReadFile(statePath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dnsmap: %w", err)
	}
	var state fileState
	if json.Unmarshal(b, &state) == nil && state.Path != "" {
		if err := restoreFile(state); err != nil {
			return err
		}
	}
	if resolvConf == "" {
		resolvConf = hostResolvConf
	}
	if err := takeOut(resolvConf); err != nil {
		return err
	}
	return removeState(statePath)
}

// takeOut removes our marked lines from a file, and nothing else.
func takeOut(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("dnsmap: %w", err)
	}
	current, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("dnsmap: %w", err)
	}
	if want := stripBlocks(current); !bytes.Equal(current, want) {
		if err := writeFile(path, want); err != nil {
			return fmt.Errorf("dnsmap: restore %s: %w", path, err)
		}
	}
	return nil
}

func removeState(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dnsmap: %w", err)
	}
	return nil
}

func restoreFile(state fileState) error {
	current, err := os.ReadFile(state.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // whoever removed it wanted it so
	} else if err != nil {
		return fmt.Errorf("dnsmap: %w", err)
	}
	want := stripBlocks(current)
	if bytes.HasPrefix(state.Written, current) { // as we left it, or cut short while we wrote
		if !state.Existed {
			return os.Remove(state.Path)
		}
		want = state.Original
	}
	if bytes.Equal(want, current) {
		return nil
	}
	if err := writeFile(state.Path, want); err != nil {
		return fmt.Errorf("dnsmap: restore %s: %w", state.Path, err)
	}
	return nil
}

// writeFile replaces a file by rename, so that no reader sees half of it, or
// in place where that cannot be: a bind mount gives EBUSY, and a read-only or
// foreign directory its own errors. A full disk is none of those: in place it would leave
// half a file.
func writeFile(path string, content []byte) error {
	if !isMountPoint(path) {
		err := replaceFile(path, content)
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		return err
	}
	return f.Sync()
}

// replaceFile writes beside the file and renames. Mode and owner of the old
// file are kept.
func replaceFile(path string, content []byte) error {
	old, err := os.Stat(path)
	if err != nil {
		return atomicfile.Write(path, content, 0o644)
	}
	if err := atomicfile.Write(path, content, old.Mode().Perm()); err != nil {
		return err
	}
	keepOwner(path, old)
	return nil
}

// isMountPoint reports whether something is mounted on the file, as `ip netns
// exec` and containers do it. Such a file is this environment's own, even when
// its path is known as that of a resolver.
func isMountPoint(path string) bool {
	info, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(info) {
		if f := strings.Fields(string(line)); len(f) > 4 && unescapeMount(f[4]) == path {
			return true
		}
	}
	return false
}

// unescapeMount turns the \040 of mountinfo into characters.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
