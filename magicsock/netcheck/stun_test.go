package netcheck

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/pion/stun/v2"
)

func TestBindingRequest(t *testing.T) {
	tx, b, err := bindingRequest()
	if err != nil || len(b) != 28 {
		t.Fatal(len(b), err)
	}
	want := []byte{0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42}
	if !bytes.Equal(b[:8], want) || !bytes.Equal(b[8:20], tx[:]) || !bytes.Equal(b[20:24], []byte{0x80, 0x28, 0, 4}) {
		t.Fatalf("% x", b)
	}
	got, mapped, request, err := parseSTUN(b)
	if got != tx || mapped.IsValid() || !request || err != nil {
		t.Fatal(got, mapped, request, err)
	}
}

// The answers of RFC 5769, sections 2.2 and 2.3.
func TestParseVectors(t *testing.T) {
	vectors := map[string][]byte{
		"192.0.2.1:32853": []byte("\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
			"\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43" +
			"\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7" +
			"\x80\x28\x00\x04\xc0\x7d\x4c\x96"),
		"[2001:db8:1234:5678:11:2233:4455:6677]:32853": []byte("\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
			"\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\x00\x20\x00\x14\x00\x02\xa1\x47" +
			"\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9" +
			"\x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41" +
			"\x80\x28\x00\x04\xc8\xfb\x0b\x4c"),
	}
	for want, b := range vectors {
		_, mapped, request, err := parseSTUN(b)
		if err != nil || request || mapped.String() != want {
			t.Errorf("%v, %v, %v; want %v", mapped, request, err, want)
		}
	}
}

func TestParseSTUN(t *testing.T) {
	tx := stun.NewTransactionIDSetter(txID{1, 2, 3})
	build := func(setters ...stun.Setter) []byte {
		m, err := stun.Build(append([]stun.Setter{tx}, setters...)...)
		if err != nil {
			t.Fatal(err)
		}
		return m.Raw
	}
	at := func(s string, port int) (net.IP, int) { return net.ParseIP(s), port }
	xor := func(s string, port int) []byte {
		ip, port := at(s, port)
		return build(stun.BindingSuccess, &stun.XORMappedAddress{IP: ip, Port: port})
	}
	tests := []struct {
		name string
		b    []byte
		want string // empty: refused
	}{
		{"xor", xor("192.0.2.9", 5), "192.0.2.9:5"},
		{"plain", build(stun.BindingSuccess, &stun.MappedAddress{IP: net.ParseIP("192.0.2.9"), Port: 5}), "192.0.2.9:5"},
		{"both: xor counts", build(stun.BindingSuccess, &stun.MappedAddress{IP: net.ParseIP("192.0.2.8"), Port: 5}, &stun.XORMappedAddress{IP: net.ParseIP("192.0.2.9"), Port: 5}), "192.0.2.9:5"},
		{"IPv4 as IPv6", build(stun.BindingSuccess, raw(stun.AttrMappedAddress, append([]byte{0, 2, 0, 5}, net.ParseIP("192.0.2.9").To16()...))), "192.0.2.9:5"},
		{"IPv6", xor("2001:db8::9", 5), "[2001:db8::9]:5"},
		{"private", xor("10.0.0.1", 5), "10.0.0.1:5"},
		{"no address", build(stun.BindingSuccess), ""},
		{"error", build(stun.BindingError, &stun.XORMappedAddress{IP: net.ParseIP("192.0.2.9"), Port: 5}), ""},
		{"unspecified", xor("0.0.0.0", 5), ""},
		{"unspecified IPv6", xor("::", 5), ""},
		{"loopback", xor("127.0.0.1", 5), ""},
		{"loopback IPv6", xor("::1", 5), ""},
		{"multicast", xor("224.0.0.1", 5), ""},
		{"broadcast", xor("255.255.255.255", 5), ""},
		{"link local", xor("fe80::1", 5), ""},
		{"port zero", xor("192.0.2.9", 0), ""},
		{"short address", build(stun.BindingSuccess, raw(stun.AttrXORMappedAddress, []byte{0, 1, 0, 5, 1, 2})), ""},
		{"no cookie", make([]byte, 20), ""},
		{"cut off", xor("192.0.2.9", 5)[:24], ""},
		{"empty", nil, ""},
		{"long", make([]byte, maxSTUN+1), ""},
	}
	for _, test := range tests {
		_, mapped, request, err := parseSTUN(test.b)
		if (err == nil) != (test.want != "") || err == nil && mapped.String() != test.want || request {
			t.Errorf("%s: %v, %v, %v", test.name, mapped, request, err)
		}
	}
}

// raw adds any attribute.
func raw(k stun.AttrType, v []byte) stun.Setter { return stun.RawAttribute{Type: k, Value: v} }

func FuzzParseSTUN(f *testing.F) {
	_, request, _ := bindingRequest()
	f.Add(request)
	f.Add(success(txID{1}, netip.MustParseAddrPort("192.0.2.1:5")))
	f.Add(success(txID{2}, netip.MustParseAddrPort("[2001:db8::1]:5")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		tx, mapped, request, err := parseSTUN(b)
		if !bytes.Equal(before, b) {
			t.Fatal("changed")
		}
		if err != nil {
			return
		}
		if peeked, ok := peekTx(b); !ok || peeked != tx {
			t.Fatal("another id")
		}
		a := mapped.Addr()
		if !request && (mapped.Port() == 0 || !a.IsGlobalUnicast() || a.Is4In6()) {
			t.Fatal(mapped)
		}
	})
}
