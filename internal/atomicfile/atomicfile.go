package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Write replaces the file at path, which may not exist yet, by one with the
// data and the mode (whatever the umask). The data is on the disk when it
// returns. On error the old file is untouched.
func Write(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	if err := fill(temp, data, mode); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(temp.Name()))
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return syncDir(dir)
}

// fill writes the new file and closes it in any case.
func fill(f *os.File, data []byte, mode fs.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// syncDir makes the rename last. Windows has no such thing.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// RemoveTemporaries removes what writes of the named files of a directory left when
// they were cut off, if it is older than age: a younger one may still be written.
func RemoveTemporaries(dir string, age time.Duration, names ...string) {
	for _, name := range names {
		left, err := filepath.Glob(filepath.Join(dir, "."+name+".*"))
		if err != nil {
			continue // of a bad pattern
		}
		for _, path := range left {
			if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > age {
				_ = os.Remove(path)
			}
		}
	}
}

// Writable returns an error if no file can be made in a directory.
func Writable(dir string) error {
	probe, err := os.CreateTemp(dir, ".probe.*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
