package dnsmap_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/dnsmap"
)

// No message makes the server panic, and every answer can be sent.
func FuzzReply(f *testing.F) {
	for _, name := range []string{"nas.node.internal.", "1.1.100.100.in-addr.arpa.", "4.7.5.6.4.6.f.6.e.6.d.f.ip6.arpa.", ".", `a\000b.node.internal.`, peerID.String() + ".node.internal."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeANY, dns.TypeAXFR} {
			m := new(dns.Msg).SetQuestion(name, qtype)
			m.SetEdns0(512, true)
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	w := start(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m dns.Msg
		if m.Unpack(b) != nil {
			return
		}
		r := w.server.Reply(t.Context(), &m)
		if r == nil {
			return
		}
		if _, err := r.Pack(); err != nil {
			t.Errorf("%v\n%s", err, r)
		}
	})
}

// Whatever resolv.conf holds, what we add can be taken out again.
func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nsearch example.org\n"), true, true)
	f.Add([]byte("options ndots:2 rotate\nnameserver 192.0.2.1"), false, false)
	f.Add([]byte("# nodetun begin (the next line is removed when nodetun stops)\nnameserver 1.2.3.4\n# nodetun end"), false, false)
	f.Add([]byte("domain"), true, true)
	server := netip.MustParseAddr("127.0.0.153")
	f.Fuzz(func(t *testing.T, content []byte, search, alone bool) {
		base := dnsmap.StripBlocks(content)
		if again := dnsmap.StripBlocks(base); len(again) < len(base) {
			base = again // marks that only met when other lines were gone
		}
		if !bytes.Equal(dnsmap.StripBlocks(base), base) {
			return
		}
		domain := ""
		if search {
			domain = "node.internal"
		}
		got := dnsmap.StripBlocks(dnsmap.AddBlocks(base, server, domain, alone))
		if search && len(base) > 0 && base[len(base)-1] != '\n' {
			base = append(slices.Clone(base), '\n')
		}
		if !bytes.Equal(got, base) {
			t.Errorf("%q came back as %q", base, got)
		}
	})
}
