package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A line that comes again and again is counted, not written.
func TestRepeatedLinesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := newLogger(&out, "text", slog.LevelInfo)
		lines := func() []string {
			defer out.Reset()
			return strings.Split(strings.TrimSpace(out.String()), "\n")
		}
		for range 1000 {
			log.Warn("relay", "err", "refused")
		}
		log.Warn("relay", "err", "another")
		log.With("a", 1).Warn("relay", "err", "another")
		got := lines()
		if len(got) != 4 || !strings.Contains(got[1], "came again") || !strings.Contains(got[1], "times=999") || !strings.Contains(got[3], "a=1") {
			t.Errorf("%d lines: %q", len(got), got)
		}
		for range 3 * 60 { // one each second for three minutes
			log.Warn("again")
			time.Sleep(time.Second)
		}
		if got = lines(); len(got) != 5 || !strings.Contains(got[1], "times=59") {
			t.Errorf("%d lines: %q", len(got), got)
		}
	})
}

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodetun.log")
	size := func(name string) int64 {
		info, err := os.Stat(name)
		if err != nil {
			return -1
		}
		return info.Size()
	}
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 1<<20-1) + "\n")
	for range 25 {
		if n, err := l.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if now, before := size(path), size(path+".1"); now != 5<<20 || before != 10<<20 {
		t.Errorf("%d bytes, %d before", now, before)
	}
	l.file.Close()
	if l, err = openLog(path); err != nil { // the next run goes on
		t.Fatal(err)
	}
	if _, err := l.Write(line); err != nil || size(path) != 6<<20 {
		t.Errorf("%v, %d bytes", err, size(path))
	}
	if err := os.Truncate(path, 0); err != nil { // as logrotate does with copytruncate
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("line\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "line\n" {
		t.Errorf("%q, %v", b, err)
	}
	l.file.Close()
}
