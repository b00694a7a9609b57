package udpconn

import (
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxBatch is the number of messages that one Read takes from the kernel.
const MaxBatch = 8

// mmsghdr is struct mmsghdr of recvmmsg(2); x/sys has no type for it.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// receiver is the memory of recvmmsg, allocated once, and the result of the
// last call.
type receiver struct {
	hdrs  [MaxBatch]mmsghdr
	iovs  [MaxBatch]unix.Iovec
	names [MaxBatch]unix.RawSockaddrInet6
	oobs  [MaxBatch][recvOOBSize]byte

	want  int
	wait  bool
	got   int
	errno syscall.Errno
	call  func(fd uintptr) bool // recvmmsg, bound once lest each read allocate

	// The zone of the last link-local source, so that its name is not made
	// anew for each packet.
	scope uint32
	zone  string
}

func (r *receiver) init() {
	for i := range r.hdrs {
		h := &r.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = &r.oobs[i][0]
	}
	r.call = r.recvmmsg
}

// prepare points the headers at the buffers of ms; the kernel overwrites the
// lengths at each call.
func (r *receiver) prepare(ms []Message) {
	for i := range ms {
		r.iovs[i].Base = &ms[i].Buf[0]
		r.iovs[i].SetLen(len(ms[i].Buf))
		h := &r.hdrs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(recvOOBSize)
		h.Flags = 0
	}
	r.want = len(ms)
}

// recvmmsg is called by the runtime with the descriptor; false makes it wait
// until there is something to read.
func (r *receiver) recvmmsg(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])),
			uintptr(r.want), unix.MSG_DONTWAIT, 0, 0)
		r.got, r.errno = int(n), errno
		switch errno {
		case 0:
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			r.got, r.errno = 0, 0
			return !r.wait
		default:
			r.got = 0
			return true
		}
	}
}

// receive fills ms by one system call. Without wait it may return 0 and no
// error.
func (c *Conn) receive(s *socket, ms []Message, wait bool) (int, error) {
	ms = ms[:min(len(ms), MaxBatch)]
	r := &c.rx
	r.prepare(ms)
	r.wait, r.got, r.errno = wait, 0, 0
	if err := s.raw.Read(r.call); err != nil {
		return 0, err
	}
	if r.errno != 0 {
		return 0, r.errno
	}
	for i := range r.got {
		r.finish(i, &ms[i], c)
	}
	if r.got > 0 {
		c.stats.received(ms[:r.got])
	}
	return r.got, nil
}

// finish translates one header into the message.
func (r *receiver) finish(i int, m *Message, c *Conn) {
	h := &r.hdrs[i]
	m.N = int(h.n)
	m.From = r.source(i)
	control := ParseControl(r.oobs[i][:h.hdr.Controllen])
	m.Seg, m.TOS, m.Local = control.Seg, control.TOS, control.Local
	if m.Seg == 0 || m.Seg > m.N {
		m.Seg = m.N
	}
	if h.hdr.Flags&unix.MSG_TRUNC != 0 {
		c.stats.truncated.Add(1)
		m.N -= m.N % max(m.Seg, 1) // the cut packet is of no use
	}
}

func (r *receiver) source(i int) netip.AddrPort {
	name := &r.names[i]
	switch name.Family {
	case unix.AF_INET:
		in4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), port(&in4.Port))
	case unix.AF_INET6:
		addr := netip.AddrFrom16(name.Addr).Unmap()
		if name.Scope_id != 0 && addr.Is6() {
			addr = addr.WithZone(r.zoneOf(name.Scope_id))
		}
		return netip.AddrPortFrom(addr, port(&name.Port))
	}
	return netip.AddrPort{}
}

// zoneOf is the numeric form, which the net package takes as well as a name.
func (r *receiver) zoneOf(scope uint32) string {
	if r.scope != scope {
		r.scope, r.zone = scope, strconv.FormatUint(uint64(scope), 10)
	}
	return r.zone
}

// port reads a port in network byte order.
func port(p *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(p))
	return uint16(b[0])<<8 | uint16(b[1])
}

// sendmsg is one system call; seg 0 sends a single packet, the zero from leaves the
// choice of the source to the kernel.
func (s *socket) sendmsg(b []byte, seg int, ecn uint8, to netip.AddrPort, from netip.Addr) error {
	var space [sendOOBSize]byte
	oob := space[:0]
	if seg > 0 {
		oob = appendSegment(oob, seg)
	}
	if ecn != 0 {
		oob = AppendTOS(oob, ecn&ecnMask, s.is6)
	}
	if from.IsValid() {
		oob = appendSource(oob, from)
	}
	_, _, err := s.WriteMsgUDPAddrPort(b, oob, to)
	return err
}
