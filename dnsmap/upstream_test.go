package dnsmap_test

import (
	"net"
	"testing"

	"github.com/miekg/dns"
)

// rawUpstream is a server that answers each question by UDP with the bytes that answer
// returns, and takes no TCP.
func rawUpstream(t *testing.T, answer func(q *dns.Msg) []byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, dns.MaxMsgSize)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) == nil {
				_, _ = conn.WriteTo(answer(q), from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

func packed(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

// many answers with n addresses, more than fit where EDNS is not spoken.
func many(t *testing.T, q *dns.Msg, n int) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Compress = true
	for i := range n {
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i)),
		})
	}
	return m
}

// Servers that keep few rules are no worse by way of us than when they are asked
// themselves.
func TestForwardToOddServers(t *testing.T) {
	for _, tc := range []struct {
		name      string
		answer    func(q *dns.Msg) []byte
		edns      bool
		rcode     int
		truncated bool
		network   string
		answers   int // by TCP
	}{
		{name: "over 512 bytes without EDNS", answer: func(q *dns.Msg) []byte { return packed(t, many(t, q, 31)) }, truncated: true, answers: 31},
		{name: "989 bytes", answer: func(q *dns.Msg) []byte { return packed(t, many(t, q, 60)) }, truncated: true, answers: 60},
		{name: "cut, and TCP refused", answer: func(q *dns.Msg) []byte {
			m := many(t, q, 3)
			m.Truncated = true
			return packed(t, m)
		}, truncated: true, answers: 3},
		{name: "FORMERR of twelve bytes to EDNS", edns: true, answer: func(q *dns.Msg) []byte {
			m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: dns.RcodeFormatError}}
			return packed(t, m)
		}, rcode: dns.RcodeFormatError},
		{name: "no question in the answer", answer: func(q *dns.Msg) []byte {
			m := many(t, q, 1)
			m.Question = nil
			return packed(t, m)
		}, rcode: dns.RcodeServerFailure},
		{name: "garbage", answer: func(q *dns.Msg) []byte { return packed(t, many(t, q, 3))[:40] }, rcode: dns.RcodeServerFailure},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := startForwarding(t, rawUpstream(t, tc.answer))
			q := new(dns.Msg).SetQuestion("big.example.", dns.TypeA)
			if tc.edns {
				q.SetEdns0(1232, false)
			}
			if r := exchange(t, "udp", w.addr, q); r.Rcode != tc.rcode || r.Truncated != tc.truncated {
				t.Errorf("by UDP: %v", r)
			}
			if r := exchange(t, "tcp", w.addr, q); r.Rcode != tc.rcode || len(r.Answer) != tc.answers {
				t.Errorf("by TCP: %d answers, %v", len(r.Answer), r.MsgHdr)
			}
		})
	}
}
