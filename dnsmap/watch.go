package dnsmap

import (
	"path/filepath"
	"slices"

	"github.com/fsnotify/fsnotify"
)

// fileWatch tells of changes of some files, whether they are written or replaced.
type fileWatch struct {
	changed chan struct{} // holds one
	paths   []string

	watcher *fsnotify.Watcher
	ended   chan struct{}
}

// watchFile returns a watch of the paths: w itself if that watches them, else a new one
// in its place, nil where there can be none. w may be nil.
func watchFile(w *fileWatch, paths ...string) *fileWatch {
	if w == nil || !slices.Equal(w.paths, paths) {
		w.close()
		w = newFileWatch(paths)
	}
	if w == nil {
		return nil
	}
	for _, path := range paths {
		// The directory tells of another file in its place, the file of what is written
		// by another name: a bind mount. A file that was replaced is watched anew.
		if w.watcher.Add(filepath.Dir(path)) != nil {
			w.close()
			return nil
		}
		_ = w.watcher.Add(path) // it may not be there
	}
	return w
}

func newFileWatch(paths []string) *fileWatch {
	watcher, err := fsnotify.NewWatcher()
	if err != nil { // too many on this host
		return nil
	}
	w := &fileWatch{changed: make(chan struct{}, 1), paths: paths, watcher: watcher, ended: make(chan struct{})}
	go w.run()
	return w
}

// run passes on what concerns the files until the watcher is closed.
func (w *fileWatch) run() {
	defer close(w.ended)
	for {
		select {
		case event, ok := <-w.watcher.Events:
			if !ok {
				return
			}
			if event.Op == fsnotify.Chmod || !slices.Contains(w.paths, event.Name) {
				continue
			}
		case _, ok := <-w.watcher.Errors: // events were lost
			if !ok {
				return
			}
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// close ends the watch and waits for it; nil is fine.
func (w *fileWatch) close() {
	if w != nil {
		_ = w.watcher.Close()
		<-w.ended
	}
}
