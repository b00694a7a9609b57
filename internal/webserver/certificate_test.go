package webserver

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/internal/webserver/webservertest"
)

func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := webservertest.NewAuthority(t)
		dir := t.TempDir()
		certFile, keyFile := a.WritePair(dir, "one.example")
		var log bytes.Buffer
		c, err := OpenCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		name := func() string {
			pair, err := c.Get(nil)
			if err != nil {
				t.Fatal(err)
			}
			if leaf := c.Leaf(); !leaf.Equal(pair.Leaf) {
				t.Error("leaf differs")
			}
			return pair.Leaf.DNSNames[0]
		}
		a.WritePair(dir, "second.example") // longer: another size, whatever the clock
		if got := name(); got != "one.example" {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(ReloadEvery)
		if got := name(); got != "second.example" {
			t.Errorf("after a while: %s", got)
		}
		if err := os.WriteFile(certFile, []byte("half a file"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(ReloadEvery)
			if got := name(); got != "second.example" {
				t.Errorf("with a broken file: %s", got)
			}
		}
		if n := strings.Count(log.String(), "cannot be used"); n != 1 {
			t.Errorf("%d complaints:\n%s", n, &log)
		}
		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		time.Sleep(ReloadEvery)
		if got := name(); got != "second.example" {
			t.Errorf("without a file: %s", got)
		}
		a.WritePair(dir, "a-third.example")
		time.Sleep(ReloadEvery)
		if got := name(); got != "a-third.example" {
			t.Errorf("repaired: %s", got)
		}
	})
}
