//go:build linux

package dnsmap_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/internal/nstest"
)

// musl asks all servers at once; a host of it has no name of ours denied by another.
func TestNetnsMusl(t *testing.T) {
	program := nstest.CompileLookup(t, "musl-gcc", "-static")
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
	if dnsmap.UsesMusl(nstest.CompileLookup(t, "gcc")) {
		t.Error("a program of glibc is taken for one of musl")
	}
	if !dnsmap.UsesMusl(nstest.CompileLookup(t, "musl-gcc")) {
		t.Error("a program of musl is not recognised")
	}
}
