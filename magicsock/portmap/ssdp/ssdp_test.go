package ssdp_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/magicsock/portmap/ssdp"
)

func TestSearch(t *testing.T) {
	want := "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: " + ssdp.Gateway + "\r\n\r\n"
	if got := string(ssdp.AppendSearch(nil, ssdp.Group(), ssdp.Gateway, 1)); got != want {
		t.Errorf("%q", got)
	}
	one := string(ssdp.AppendSearch(nil, netip.MustParseAddrPort("192.168.1.1:1900"), ssdp.Gateway, 0))
	if strings.Contains(one, "MX") || !strings.Contains(one, "HOST: 192.168.1.1:1900\r\n") {
		t.Errorf("%q", one)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     ssdp.Message
		err      error
	}{
		{
			"response", "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nst: upnp:rootdevice\r\nUSN: uuid:1::upnp:rootdevice\r\nEXT:\r\nServer: x\r\nLocation: http://192.168.1.1:5000/rootDesc.xml\r\nBOOTID.UPNP.ORG: 77\r\n\r\n",
			ssdp.Message{Kind: ssdp.Response, Target: "upnp:rootdevice", USN: "uuid:1::upnp:rootdevice", Location: "http://192.168.1.1:5000/rootDesc.xml", BootID: "77"},
			nil,
		},
		{"alive", "NOTIFY * HTTP/1.1\r\nNT: a\r\nNTS: ssdp:alive\r\nUSN: b\r\n01-NLS: 5\r\n\r\n", ssdp.Message{Kind: ssdp.Alive, Target: "a", USN: "b", BootID: "5"}, nil},
		{"byebye with bare line ends", "NOTIFY * HTTP/1.1\nNT:a\nNTS:ssdp:byebye\nUSN:b\n\n", ssdp.Message{Kind: ssdp.Byebye, Target: "a", USN: "b"}, nil},
		{"update", "NOTIFY * HTTP/1.1\r\nNTS: SSDP:Update\r\n\r\n", ssdp.Message{Kind: ssdp.Update}, nil},
		{"search", string(ssdp.AppendSearch(nil, ssdp.Group(), "x", 1)), ssdp.Message{Kind: ssdp.Search, Target: "x"}, nil},
		{"the first counts", "HTTP/1.1 200 OK\r\nUSN: a\r\nUSN: b\r\n\r\n", ssdp.Message{Kind: ssdp.Response, USN: "a"}, nil},
		{"a body is not read", "HTTP/1.1 200 OK\r\n\r\nUSN: b\r\n", ssdp.Message{Kind: ssdp.Response}, nil},
		{"line without a colon", "HTTP/1.1 200 OK\r\nrubbish\r\nUSN: b\r\n\r\n", ssdp.Message{Kind: ssdp.Response, USN: "b"}, nil},
		{"control characters", "HTTP/1.1 200 OK\r\nUSN: a\x1b[31m\rb\r\n\r\n", ssdp.Message{Kind: ssdp.Response, USN: "a [31m b"}, nil},
		{"cut in a line", "HTTP/1.1 200 OK\r\nUSN: a\r\nLOCATION: http", ssdp.Message{Kind: ssdp.Response, USN: "a"}, nil},
		{"empty", "", ssdp.Message{}, ssdp.ErrFormat},
		{"error", "HTTP/1.1 404 Not Found\r\n\r\n", ssdp.Message{}, ssdp.ErrFormat},
		{"request", "GET / HTTP/1.1\r\n\r\n", ssdp.Message{}, ssdp.ErrFormat},
		{"unknown notice", "NOTIFY * HTTP/1.1\r\nNTS: upnp:propchange\r\n\r\n", ssdp.Message{}, ssdp.ErrFormat},
		{"notice of nothing", "NOTIFY * HTTP/1.1\r\n\r\n", ssdp.Message{}, ssdp.ErrFormat},
		{"endless lines", "HTTP/1.1 200 OK\r\n" + strings.Repeat("a:b\r\n", 100) + "USN: b\r\n\r\n", ssdp.Message{Kind: ssdp.Response}, nil},
		{"too long", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", ssdp.MaxSize) + "\r\nUSN: b\r\n\r\n", ssdp.Message{Kind: ssdp.Response}, nil},
	} {
		got, err := ssdp.Parse([]byte(c.in))
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	m := ssdp.Message{Target: "a", Location: "http://192.168.1.1/", USN: "uuid:1", BootID: "7"}
	f.Add(ssdp.AppendResponse(nil, m))
	for _, kind := range []ssdp.Kind{ssdp.Alive, ssdp.Update, ssdp.Byebye} {
		m.Kind = kind
		f.Add(ssdp.AppendNotice(nil, m))
	}
	f.Add(ssdp.AppendSearch(nil, ssdp.Group(), ssdp.Gateway, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ssdp.Parse(b)
		if err != nil || len(b) > 1024 {
			return
		}
		var again []byte
		switch m.Kind {
		case ssdp.Search:
			return // holds less
		case ssdp.Response:
			again = ssdp.AppendResponse(nil, m)
		default:
			again = ssdp.AppendNotice(nil, m)
		}
		if got, err := ssdp.Parse(again); err != nil || got != m {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
	})
}
