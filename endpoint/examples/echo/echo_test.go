package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// capture runs f with its standard output in a pipe that lines are read from.
func capture(t *testing.T) (lines *bufio.Reader, restore func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdout
	os.Stdout = w
	return bufio.NewReader(r), func() { os.Stdout = old; w.Close(); r.Close() }
}

func TestEcho(t *testing.T) {
	lines, restore := capture(t)
	defer restore()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	listening, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- run(listening, []string{"listen", "--bind", "127.0.0.1:0", "--bind=[::1]:0", "--key", strings.Repeat("01", 32)})
	}()
	var at struct {
		NodeID   string   `json:"nodeId"`
		Direct   []string `json:"directAddresses"`
		RelayURL *string  `json:"relayUrl"`
	}
	decodeLine(t, lines, &at)
	if len(at.NodeID) != 52 || len(at.Direct) == 0 || at.RelayURL == nil {
		t.Fatalf("%+v", at)
	}
	args := []string{"dial", "--bytes", "300000", "--bind", "127.0.0.1:0", at.NodeID, "--addr", at.Direct[0]}
	if err := run(ctx, args); err != nil {
		t.Fatal(err)
	}
	var result struct {
		OK    bool
		Bytes int
		MS    float64
		Path  string
	}
	decodeLine(t, lines, &result)
	if !result.OK || result.Bytes != 300_000 || result.MS <= 0 || !strings.HasPrefix(result.Path, "direct(127.0.0.1:") {
		t.Errorf("%+v", result)
	}
	if err := run(ctx, append(args, "--alpn", "other")); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("another protocol: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func decodeLine(t *testing.T, r *bufio.Reader, v any) {
	t.Helper()
	line, err := r.ReadBytes('\n')
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if err := json.NewDecoder(bytes.NewReader(line)).Decode(v); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		nil,
		{"fly"},
		{"listen", "node"},
		{"dial"},
		{"dial", "a", "b"},
		{"dial", "x"},
		{"listen", "--bind"},
		{"listen", "--bind", "here"},
		{"listen", "--key", "secret"},
		{"listen", "--relay", "ftp://x"},
		{"dial", "x", "--bytes", "-1"},
		{"listen", "--fast", "1"},
	} {
		err := run(t.Context(), args)
		if err == nil {
			t.Errorf("%q is taken", args)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", args, err)
		}
	}
}
