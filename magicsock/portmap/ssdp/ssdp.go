package ssdp

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Port is where devices listen.
const Port = 1900

// MaxSize is what is read of a packet.
const MaxSize = 2048

// maxLines bounds the header lines of a packet.
const maxLines = 64

// Group is where devices and hosts meet.
func Group() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 255, 250}), Port)
}

// Gateway is the type of device that routers are. Version 2 answers to it too.
const Gateway = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"

// ErrFormat is a packet that is none of the three kinds.
var ErrFormat = errors.New("ssdp: not a message")

// Kind is what a message is for.
type Kind uint8

// The kinds of messages.
const (
	Search Kind = iota + 1
	Response
	// Alive, Update and Byebye are the notices of a device.
	Alive
	Update
	Byebye
)

// Message is what is read of a packet. Its text is that of the sender: it may be
// anything but contains no line breaks.
type Message struct {
	Kind Kind
	// Target is the type of device or service that is looked for or found.
	Target string
	// Location is the URL of the description.
	Location string
	// USN names the device for ever.
	USN string
	// BootID changes when the device starts; empty from older ones.
	BootID string
}

// AppendSearch appends a search for a target. Devices wait for up to wait
// seconds before they respond; 0 is for a search that goes to one device, which
// does not wait.
func AppendSearch(b []byte, to netip.AddrPort, target string, wait int) []byte {
	b = fmt.Appendf(b, "M-SEARCH * HTTP/1.1\r\nHOST: %v\r\nMAN: \"ssdp:discover\"\r\n", to)
	if wait > 0 {
		b = fmt.Appendf(b, "MX: %d\r\n", wait)
	}
	return fmt.Appendf(b, "ST: %s\r\n\r\n", target)
}

// AppendResponse appends a response to a search. It is for devices.
func AppendResponse(b []byte, m Message) []byte {
	b = fmt.Appendf(b, "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: %s\r\nEXT:\r\n", m.Target)
	return appendRest(b, m)
}

// AppendNotice appends a notice of the Kind of m. It is for devices.
func AppendNotice(b []byte, m Message) []byte {
	b = fmt.Appendf(b, "NOTIFY * HTTP/1.1\r\nHOST: %v\r\nCACHE-CONTROL: max-age=120\r\nNT: %s\r\n", Group(), m.Target)
	b = fmt.Appendf(b, "NTS: %s\r\n", noticeText(m.Kind))
	return appendRest(b, m)
}

func appendRest(b []byte, m Message) []byte {
	b = fmt.Appendf(b, "USN: %s\r\nLOCATION: %s\r\n", m.USN, m.Location)
	if m.BootID != "" {
		b = fmt.Appendf(b, "BOOTID.UPNP.ORG: %s\r\n", m.BootID)
	}
	return append(b, "\r\n"...)
}

func noticeText(k Kind) string {
	switch k {
	case Update:
		return "ssdp:update"
	case Byebye:
		return "ssdp:byebye"
	default:
		return "ssdp:alive"
	}
}

// noticeKind reads NTS; 0 for others.
func noticeKind(text string) Kind {
	for _, k := range []Kind{Alive, Update, Byebye} {
		if strings.EqualFold(text, noticeText(k)) {
			return k
		}
	}
	return 0
}

// Parse reads a packet.
func Parse(b []byte) (Message, error) {
	var m Message
	first, rest, ok := bytes.Cut(b[:min(len(b), MaxSize)], []byte("\n"))
	if !ok {
		return m, ErrFormat
	}
	kind := kindOf(string(bytes.TrimSpace(first)))
	if kind == 0 {
		return m, ErrFormat
	}
	m.Kind = kind
	notice := ""
	for lines := 0; lines < maxLines; lines++ {
		var line []byte
		line, rest, ok = bytes.Cut(rest, []byte("\n"))
		name, value, found := strings.Cut(string(line), ":")
		if !ok || strings.TrimSpace(name) == "" {
			break
		}
		if !found {
			continue
		}
		m.take(strings.ToUpper(strings.TrimSpace(name)), clean(value), &notice)
	}
	if kind == Alive {
		if m.Kind = noticeKind(notice); m.Kind == 0 {
			return Message{}, ErrFormat
		}
	}
	return m, nil
}

// kindOf reads the first line; Alive stands for every notice.
func kindOf(line string) Kind {
	switch {
	case line == "M-SEARCH * HTTP/1.1":
		return Search
	case line == "NOTIFY * HTTP/1.1":
		return Alive
	case strings.HasPrefix(line, "HTTP/1.1 200"), strings.HasPrefix(line, "HTTP/1.0 200"):
		return Response
	}
	return 0
}

// take stores a header line. 01-NLS is what devices of UPnP 1.0 send for BOOTID.
func (m *Message) take(name, value string, notice *string) {
	var field *string
	switch name {
	case "ST", "NT":
		field = &m.Target
	case "LOCATION":
		field = &m.Location
	case "USN":
		field = &m.USN
	case "BOOTID.UPNP.ORG", "01-NLS":
		field = &m.BootID
	case "NTS":
		field = notice
	default:
		return
	}
	if *field == "" {
		*field = value
	}
}

// clean removes space around a value and control characters within.
func clean(value string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, value))
}
