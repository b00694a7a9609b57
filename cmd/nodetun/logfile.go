package main

import (
	"errors"
	"os"
	"sync"
)

// maxLog is the size in bytes at which a log is begun anew; the one before is kept
// beside it, with ".1" at the end of its name.
const maxLog = 10 << 20

// logFile is the log of a node in the background. Several may write at a time.
type logFile struct {
	path string

	mu   sync.Mutex // guards the fields below
	file *os.File
	size int64
}

// openLog opens a log to append to it.
func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.open()
}

func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if l.file != nil {
		_ = l.file.Close() // what is written is written
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write appends b, to a new file if the present one is full.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(b)) > maxLog {
		l.rotate()
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	return n, err
}

// rotate begins a new file. Where that cannot be the old one goes on, until another
// maxLog was written.
func (l *logFile) rotate() {
	if info, err := l.file.Stat(); err == nil && info.Size() < l.size { // somebody emptied it
		l.size = info.Size()
		return
	}
	l.size = 0
	if os.Rename(l.path, l.path+".1") == nil {
		_ = l.open()
	}
}
