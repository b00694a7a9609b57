package netstack

import (
	"sync"
	"sync/atomic"

	"github.com/nodetun/nodetun/internal/vnet"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// gsoMax is the longest packet in bytes that gVisor hands us uncut.
const gsoMax = 65000

// link is the one interface of the stack, as gVisor sees it.
type link struct {
	mtu   atomic.Uint32
	write func(h vnet.Header, parts ...[]byte) error

	parts sync.Pool // of *parts

	// mu guards dispatcher.
	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher

	unrefused unrefused

	filtered, badChecksum, writeErrors atomic.Uint64
}

var (
	_ stack.LinkEndpoint       = (*link)(nil)
	_ stack.GSOEndpoint        = (*link)(nil)
	_ stack.QueueingDiscipline = (*link)(nil)
)

func newLink(mtu int, write func(h vnet.Header, parts ...[]byte) error) *link {
	l := &link{write: write}
	l.mtu.Store(uint32(mtu))
	l.parts.New = func() any { return &parts{list: make([][]byte, 0, 8)} }
	return l
}

// parts collects the pieces of an outgoing packet: an io.Writer that keeps
// what it is given.
type parts struct{ list [][]byte }

func (p *parts) Write(b []byte) (int, error) {
	p.list = append(p.list, b)
	return len(b), nil
}

// WritePacket implements stack.QueueingDiscipline: it sends a packet of TCP.
// Whatever else gVisor would like to say (IPv6 neighbour discovery, IGMP) stays
// here. Being the queue, too, saves gVisor a list for every packet.
func (l *link) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	if pkt.TransportProtocolNumber == header.TCPProtocolNumber && !l.unrefused.holds(pkt) {
		l.send(pkt)
	}
	return nil
}

// WritePackets implements stack.LinkEndpoint.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		_ = l.WritePacket(pkt)
	}
	return list.Len(), nil
}

// send gives one packet to Config.Write, with its checksum partial.
func (l *link) send(pkt *stack.PacketBuffer) {
	ip, segment := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	payload := pkt.Data().Size()
	h := vnet.Header{
		Flags:      vnet.NeedsCsum,
		HdrLen:     uint16(len(ip) + len(segment)),
		CsumStart:  uint16(len(ip)),
		CsumOffset: header.TCPChecksumOffset,
	}
	if mss := int(pkt.GSOOptions.MSS); pkt.GSOOptions.Type != stack.GSONone && mss > 0 && payload > mss {
		h.GSOType, h.GSOSize = vnet.GSOTCPv4, uint16(mss)
		if pkt.NetworkProtocolNumber == header.IPv6ProtocolNumber {
			h.GSOType = vnet.GSOTCPv6
		}
	}
	// gVisor leaves it empty in segments without payload.
	header.TCP(segment).SetChecksum(vnet.PseudoSum(ip, uint8(header.TCPProtocolNumber), len(segment)+payload))

	p := l.parts.Get().(*parts)
	p.list = append(p.list[:0], ip, segment)
	if payload > 0 {
		pkt.Data().ReadTo(p, true /* peek */)
	}
	if err := l.write(h, p.list...); err != nil {
		l.writeErrors.Add(1)
	}
	clear(p.list)
	l.parts.Put(p)
}

// deliver copies one packet, whose headers end at head, into the stack. The
// headers get a buffer of their own: gVisor copies the one they stand in as
// soon as somebody shares it. The buffers are as small as what they hold, since
// gVisor pools them by size and an acknowledgement must not pin 64 KiB.
func (l *link) deliver(ip []byte, head int) {
	l.mu.RLock()
	dispatcher := l.dispatcher
	l.mu.RUnlock()
	if dispatcher == nil {
		return
	}
	proto := header.IPv4ProtocolNumber
	if ip[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	head = min(head, len(ip))
	payload := buffer.MakeWithView(buffer.NewViewWithData(ip[:head]))
	if head < len(ip) {
		_ = payload.Append(buffer.NewViewWithData(ip[head:]))
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
	dispatcher.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(dispatcher stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = dispatcher
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu.Load() }

// SetMTU implements stack.LinkEndpoint.
func (l *link) SetMTU(mtu uint32) { l.mtu.Store(mtu) }

// Capabilities implements stack.LinkEndpoint. Checksums of what comes in are
// verified before delivery, or need not be.
func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityTXChecksumOffload | stack.CapabilityRXChecksumOffload
}

// GSOMaxSize implements stack.GSOEndpoint.
func (*link) GSOMaxSize() uint32 { return gsoMax }

// SupportedGSO implements stack.GSOEndpoint.
func (*link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// The rest of stack.LinkEndpoint: a link without header, addresses or
// goroutines.

func (*link) MaxHeaderLength() uint16                 { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress          { return "" }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) Wait()                                   {}
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*link) AddHeader(*stack.PacketBuffer)           {}
func (*link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*link) Close()                                  {}
func (*link) SetOnCloseAction(func())                 {}
