package relayserver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"github.com/nodetun/nodetun/internal/ratelimit"
)

const stunRequest = "000100082112a4420102030405060708090a0b0c802800045b20f9cc"

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSTUNVectors(t *testing.T) {
	for _, test := range []struct{ name, request, from, want string }{
		{"IPv4", stunRequest, "203.0.113.5:54321", "0101000c2112a4420102030405060708090a0b0c002000080001f523ea12d547"},
		{
			"IPv6", stunRequest, "[2001:db8::5]:54321",
			"010100182112a4420102030405060708090a0b0c002000140002f5230113a9fa0102030405060708090a0b09",
		},
		{"no attributes", "000100002112a4420102030405060708090a0b0c", "203.0.113.5:54321", "0101000c2112a4420102030405060708090a0b0c002000080001f523ea12d547"},
		{"bad fingerprint", "000100082112a4420102030405060708090a0b0c802800045b20f9cd", "203.0.113.5:1", ""},
		// An answer that is answered would travel for ever between two servers.
		{"an answer", "0101000c2112a4420102030405060708090a0b0c002000080001f523ea12d547", "203.0.113.5:1", ""},
		{"no cookie", "000100002112a4430102030405060708090a0b0c", "203.0.113.5:1", ""},
		{"too short", "0001", "203.0.113.5:1", ""},
		{"longer than it is", "000100ff2112a4420102030405060708090a0b0c", "203.0.113.5:1", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &stunServer{limit: ratelimit.NewTable(0), count: new(counters)}
			var request, answer stun.Message
			ok := s.answer(unhex(t, test.request), netip.MustParseAddrPort(test.from), &request, &answer)
			if ok != (test.want != "") {
				t.Fatal(ok)
			}
			if ok && !bytes.Equal(answer.Raw, unhex(t, test.want)) {
				t.Errorf("got  %x\nwant %s", answer.Raw, test.want)
			}
		})
	}
}

// A client that comes by IPv4 is told an IPv4 address, whatever is bound.
func TestSTUNFamilies(t *testing.T) {
	s := start(t, Config{STUNAddr: ":0"})
	port := s.STUNAddr().Port()
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), port)))
		if err != nil {
			t.Skipf("%s: %v", host, err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write([]byte("not STUN"))
		if _, err := conn.Write(unhex(t, stunRequest)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		m := &stun.Message{Raw: buf[:n]}
		var mapped stun.XORMappedAddress
		if err := m.Decode(); err != nil {
			t.Fatal(err)
		}
		if err := mapped.GetFrom(m); err != nil {
			t.Fatal(err)
		}
		if got := (&net.UDPAddr{IP: mapped.IP, Port: mapped.Port}).String(); got != conn.LocalAddr().String() {
			t.Errorf("told %s, is %v", got, conn.LocalAddr())
		}
		if family := buf[25]; (family == 1) != (host == "127.0.0.1") {
			t.Errorf("%s: family %d", host, family)
		}
	}
	if c := s.Counters(); c.STUNAnswers4 != 1 || c.STUNAnswers6 != 1 || c.STUNBad != 2 {
		t.Errorf("%+v", c)
	}
}

// The answer leaves from the address that was asked, whichever the system prefers.
func TestSTUNAnswersFromWhereItWasAsked(t *testing.T) {
	s := start(t, Config{STUNAddr: ":0"})
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(patience))
	asked := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.7"), s.STUNAddr().Port())
	if _, err := client.WriteToUDPAddrPort(unhex(t, stunRequest), asked); err != nil {
		t.Skipf("no such address here: %v", err)
	}
	buf := make([]byte, 100)
	if _, from, err := client.ReadFromUDPAddrPort(buf); err != nil || from != asked {
		t.Errorf("answer from %v, %v", from, err)
	}
}

// S26: at most 50 answers a second go to one prefix, so that the relay is not
// worth much for reflecting.
func TestSTUNRate(t *testing.T) {
	count := new(counters)
	s := &stunServer{limit: ratelimit.NewTable(50), count: count}
	var request, answer stun.Message
	b := unhex(t, stunRequest)
	for range 1000 {
		s.answer(b, netip.MustParseAddrPort("203.0.113.5:54321"), &request, &answer)
	}
	if n := count.stunAnswers4.Load(); n < 50 || n > 60 {
		t.Errorf("%d answers", n)
	}
	if !s.answer(b, netip.MustParseAddrPort("[2001:db8::5]:54321"), &request, &answer) {
		t.Error("another prefix suffers")
	}
}

func FuzzSTUN(f *testing.F) {
	f.Add(unhex(f, stunRequest))
	s := &stunServer{limit: ratelimit.NewTable(0), count: new(counters)}
	var request, answer stun.Message
	f.Fuzz(func(t *testing.T, b []byte) {
		if s.answer(b, netip.MustParseAddrPort("203.0.113.5:54321"), &request, &answer) && len(answer.Raw) != 32 {
			t.Errorf("answer of %d bytes", len(answer.Raw))
		}
	})
}

func BenchmarkSTUN(b *testing.B) {
	s := &stunServer{limit: ratelimit.NewTable(0), count: new(counters)}
	var request, answer stun.Message
	packet, from := unhex(b, stunRequest), netip.MustParseAddrPort("203.0.113.5:54321")
	b.ReportAllocs()
	for b.Loop() {
		s.answer(packet, from, &request, &answer)
	}
}

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
