package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"
)

func FuzzParse(f *testing.F) {
	f.Add(build(protoUDP, a4, b4, udp(1, 2, "x")))
	f.Add(build(protoTCP, a6, b6, tcp(1, 2, 2, 0, 0, "")))
	f.Add(AppendUnreachable(nil, build(protoUDP, a4, b4, udp(1, 2, "x")), NoRoute, b4))
	f.Add(fragments6(build(protoUDP, a6, b6, udp(1, 2, string(make([]byte, 100)))), 64)[1])
	f.Fuzz(func(t *testing.T, ip []byte) {
		i, err := Parse(ip)
		if err != nil {
			return
		}
		_, _ = Quoted(ip, i)
		_ = AppendRST(nil, ip)
		_ = AppendUnreachable(nil, ip, Prohibited, i.Dst)
		if i.Fragment {
			var r Reassembler
			_, _ = r.Add(time.Unix(1, 0), ip, i)
		}
		if i.Version != 4 {
			return
		}
		wasValid := valid(ip) == nil
		moved := bytes.Clone(ip)
		if err := TranslateV4(moved, w1, w2); err != nil {
			t.Fatal(err)
		}
		if wasValid && !i.Fragment && valid(moved) != nil {
			t.Errorf("a valid packet became invalid: %v", valid(moved))
		}
	})
}

// Translation equals computing every checksum anew, whatever the addresses, the
// payload, and the place where a quoted packet is cut.
func FuzzTranslateV4(f *testing.F) {
	f.Add([]byte("payload"), []byte("aaaabbbbccccdddd"), uint8(0), uint8(30))
	f.Add(make([]byte, 30), make([]byte, 16), uint8(7), uint8(255))
	f.Fuzz(func(t *testing.T, payload, addrs []byte, shape, cut uint8) {
		if len(addrs) < 16 || len(payload) > 2000 {
			return
		}
		var pair [4]netip.Addr
		for n := range pair {
			pair[n] = netip.AddrFrom4([4]byte(addrs[4*n:]))
		}
		if pair[0] == pair[1] {
			return // two ends of one address: which one a quoted packet means is open
		}
		packets := kinds(pair[0], pair[1], string(payload))
		ip := withOptions(packets[int(shape)%len(packets)], int(shape>>4)%11*4)
		checkTranslation(t, ip, rebuilt(t, ip, pair[2], pair[3]), pair)

		packets = kinds(pair[1], pair[0], string(payload))
		inner := packets[int(shape)%len(packets)]
		n := min(len(inner), max(int(cut), 38)) // a cut sum is TestTranslateQuotedAgainstRebuilt's
		moved := rebuilt(t, inner, pair[3], pair[2])
		checkTranslation(t, quoting(pair[0], pair[1], inner[:n]), quoting(pair[2], pair[3], moved[:n]), pair)
	})
}

// Any order of any fragments stays within the limits, and what comes out is a
// packet with its length right.
func FuzzReassembler(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 0, 0, 1, 2, 0})
	f.Add([]byte{0x80, 0, 3, 1, 0, 0x80, 3, 2, 0, 9})
	f.Fuzz(func(t *testing.T, script []byte) {
		var r Reassembler
		now := time.Unix(1, 0)
		script = script[:min(len(script), 5*300)]
		for ; len(script) >= 5; script = script[5:] {
			ip := scriptedFragment([5]byte(script))
			now = now.Add(time.Duration(script[4]) * 10 * time.Millisecond)
			i, err := Parse(ip)
			if err != nil {
				continue
			}
			whole, err := r.Add(now, ip, i)
			if err != nil && whole != nil {
				t.Error("an error and a packet")
			}
			checkBooks(t, &r)
			if whole == nil {
				continue
			}
			w, err := Parse(whole)
			if err == nil && (w.Fragment || w.Src != i.Src || w.Dst != i.Dst) {
				t.Errorf("%x: %+v", whole, w)
			}
			if errors.Is(err, ErrLength) {
				t.Errorf("%x: %v", whole, err)
			}
		}
	})
}

// scriptedFragment makes a fragment of: version and more, offset, size, number.
func scriptedFragment(s [5]byte) []byte {
	data := bytes.Repeat([]byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, int(s[2]))
	offset, more := uint16(s[1]), s[0]&1 != 0
	data = data[:max(0, len(data)-int(s[0]>>1&7))]
	if s[0]&0x80 == 0 {
		ip := append(appendHeader(nil, protoUDP, a4, b4, len(data)), data...)
		binary.BigEndian.PutUint16(ip[4:], uint16(s[3]))
		if more {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(ip[6:], offset)
		return ip
	}
	offset <<= 3
	if more {
		offset |= 1
	}
	next := []uint8{protoUDP, protoDestOpts}[s[0]>>6&1]
	ip := append(appendHeader(nil, protoFragment, a6, b6, 8+len(data)), next, 0, byte(offset>>8), byte(offset), 0, 0, 0, s[3])
	return append(ip, data...)
}
