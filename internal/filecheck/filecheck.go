package filecheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"runtime"
	"strconv"
)

// The errors of Trusted and Secret are one of these.
var (
	ErrOwner    = errors.New("file of another user")
	ErrWritable = errors.New("file that others can change")
	ErrReadable = errors.New("file that others can read")
	ErrOpen     = errors.New("directory that others can enter")
)

// fault is one of the errors above, in words about one file.
type fault struct {
	kind error
	text string
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.kind }

func faultOf(kind error, format string, args ...any) error {
	return &fault{kind, fmt.Sprintf(format, args...)}
}

// Bits of a mode.
const (
	othersWrite = 0o022
	othersAny   = 0o077
	worldAny    = 0o007
)

// Trusted returns an error if somebody else may change the file. info is that of the file
// at path, which the error names, and what mends it.
func Trusted(path string, info fs.FileInfo) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	if err := owned(path, info); err != nil {
		return err
	}
	if info.Mode().Perm()&othersWrite != 0 {
		return faultOf(ErrWritable, "%s: others can change it (try: chmod go-w %s)", path, path)
	}
	return nil
}

// Secret returns an error if somebody else may read or change the file, or enter the
// directory. what is what they could read, such as "the tokens in it". A file of root's may be readable for a group: that is how root shows one to a
// process that runs as another user.
func Secret(path, what string, info fs.FileInfo) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	if err := owned(path, info); err != nil {
		return err
	}
	mode := info.Mode().Perm()
	switch {
	case info.IsDir() && mode&othersAny != 0:
		return faultOf(ErrOpen, "%s: others can enter it (try: chmod 700 %s)", path, path)
	case ofRootForUs(info) && mode&(othersWrite|worldAny) == 0:
		return nil
	case mode&othersAny != 0:
		return faultOf(ErrReadable, "%s: others can read %s (try: chmod 600 %s)", path, what, path)
	}
	return nil
}

// owned returns an error for what is neither this process's user's nor root's.
func owned(path string, info fs.FileInfo) error {
	uid, known := ownerOf(info)
	if !known || uid == 0 || uid == processUser() {
		return nil
	}
	return faultOf(ErrOwner, "%s: it belongs to user %s (try: chown %s %s)", path, userName(uid), userName(processUser()), path)
}

// ofRootForUs says that root made the file for a process that is not root's.
func ofRootForUs(info fs.FileInfo) bool {
	uid, known := ownerOf(info)
	return known && uid == 0 && processUser() != 0
}

// userName is how people know a user.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}
