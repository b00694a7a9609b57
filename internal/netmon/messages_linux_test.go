package netmon

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// message makes one netlink message.
func message(kind uint16, body ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, make([]byte, unix.SizeofNlMsghdr-len(b))...)
	b = append(b, body...)
	return append(b, make([]byte, -len(b)&3)...)
}

func routeMessage(kind uint16, length, table byte) []byte {
	return message(kind, unix.AF_INET, length, 0, 0, table, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3)
}

func TestMatters(t *testing.T) {
	other := routeMessage(unix.RTM_NEWROUTE, 24, unix.RT_TABLE_MAIN)
	for _, c := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"nothing", nil, false},
		{"default route", routeMessage(unix.RTM_NEWROUTE, 0, unix.RT_TABLE_MAIN), true},
		{"default route gone", routeMessage(unix.RTM_DELROUTE, 0, unix.RT_TABLE_MAIN), true},
		{"other route", other, false},
		{"other table", routeMessage(unix.RTM_NEWROUTE, 0, 77), false},
		{"address", message(unix.RTM_NEWADDR, 1, 2, 3), true},
		{"link", message(unix.RTM_NEWLINK), true},
		{"other routes, then an address", append(append([]byte(nil), other...), message(unix.RTM_DELADDR)...), true},
		{"short header", other[:10], true},
		{"cut", other[:len(other)-8], true},
		{"short body", message(unix.RTM_NEWROUTE, 2, 24), true},
		{"no length", make([]byte, 16), true},
	} {
		if got := matters(c.b); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func FuzzMatters(f *testing.F) {
	f.Add(routeMessage(unix.RTM_NEWROUTE, 24, unix.RT_TABLE_MAIN))
	f.Add(message(unix.RTM_NEWADDR, 1, 2, 3))
	f.Fuzz(func(_ *testing.T, b []byte) { matters(b) })
}
