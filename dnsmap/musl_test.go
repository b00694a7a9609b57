//go:build linux

package dnsmap_test

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/internal/nstest"
)

// lookUp asks the C library 20 times and prints how often it had an answer.
const lookUp = `#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
	int found = 0;
	for (int i = 0; i < 20; i++) {
		struct addrinfo *list;
		if (getaddrinfo(argv[1], "22", 0, &list) == 0) {
			found++;
			freeaddrinfo(list);
		}
	}
	printf("%d\n", found);
	return 0;
}
`

// compile builds a program of C and returns its path.
func compile(t *testing.T, compiler string, args ...string) string {
	t.Helper()
	nstest.Require(t, compiler)
	dir := t.TempDir()
	source, program := filepath.Join(dir, "lookup.c"), filepath.Join(dir, "lookup")
	if err := os.WriteFile(source, []byte(lookUp), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(compiler, append(args, "-o", program, source)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", compiler, err, out)
	}
	return program
}

// musl asks all servers at once; a host of it has no name of ours denied by another.
func TestNetnsMusl(t *testing.T) {
	program := compile(t, "musl-gcc", "-static")
	ns := nstest.New(t, "musl")
	dir := filepath.Join("/etc/netns", ns.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.Remove("/etc/netns")
	})
	var other net.PacketConn
	ns.Do(t, func() {
		var err error
		if other, err = net.ListenPacket("udp", "127.0.0.9:53"); err != nil {
			t.Fatal(err)
		}
	})
	denies := &dns.Server{PacketConn: other, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
	})}
	done := make(chan error, 1)
	go func() { done <- denies.ActivateAndServe() }()
	t.Cleanup(func() { _ = denies.Shutdown(); <-done })
	startIn(t, ns, nil)
	content := dnsmap.AddBlocks([]byte("nameserver 127.0.0.9\noptions rotate\n"), netip.MustParseAddr("127.0.0.153"), "", true)
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := strings.TrimSpace(ns.Run(t, program, "nas.node.internal")); out != "20" {
		t.Errorf("%s of 20 look-ups worked", out)
	}
}

func TestMuslIsRecognised(t *testing.T) {
	if dnsmap.UsesMusl(compile(t, "gcc")) {
		t.Error("a program of glibc is taken for one of musl")
	}
	if !dnsmap.UsesMusl(compile(t, "musl-gcc")) {
		t.Error("a program of musl is not recognised")
	}
}
