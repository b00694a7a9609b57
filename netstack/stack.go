package netstack

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/internal/vnet"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// nicID is the one interface of the stack.
	nicID tcpip.NICID = 1

	// maxPending bounds the SYNs that wait for an answer; one more gets RST.
	maxPending = 4096

	// timeWait is short, since gVisor swallows a SYN of a four-tuple that is still in
	// TIME_WAIT (RFC 6191 wants it taken). The other end of every flow is the kernel of
	// this host: nothing old is under way.
	timeWait = time.Millisecond

	// minBuffer is the least that a flow may have.
	minBuffer = 4 << 10
)

// Sizes in bytes of the two buffers of a flow: what it begins with, and what Set…Buffer may
// give it. With 64 KiB a flow is half as fast as with 256, with more than 512 no faster.
const (
	SmallBuffer = 64 << 10
	LargeBuffer = 512 << 10
)

// MTU limits; above 65000 gVisor's buffers no longer hold a packet.
const (
	minMTU = 1280
	maxMTU = 65000
)

// Config says how to make a Stack.
type Config struct {
	// MTU of the link in bytes, 1280 to 65000. Zero is 1420.
	MTU int
	// Write sends one packet, whose bytes are those of the parts one after
	// the other. It is called by several goroutines at a time, must not
	// block, and must not keep the parts. Errors are counted, the packet is
	// lost.
	Write func(h vnet.Header, parts ...[]byte) error
	// Accept is called, in a goroutine of its own, with every connection
	// request, and may go on to serve the flow. It should return soon after
	// Pending.Done is closed or the flow has failed, since Close waits for
	// it. A request that it leaves without answer is reset. Nil resets all.
	Accept func(*Pending)
	// Logger; nil for none.
	Logger *slog.Logger
}

// Stack is a TCP of its own.
type Stack struct {
	cfg  Config
	log  *slog.Logger
	net  *stack.Stack
	link *link
	fwd  *tcp.Forwarder

	acceptWait time.Duration // shorter in tests

	// done is closed by Close.
	done chan struct{}
	// work counts handlers of pending requests and dials.
	work sync.WaitGroup

	// mu guards the fields below.
	mu      sync.Mutex
	closed  bool
	pending map[stack.TransportEndpointID]*Pending
	dials   map[flowKey]*dial

	accepted, dialled, overflow atomic.Uint64
}

// flowKey names a connection by its two ends, seen from this side.
type flowKey struct{ local, remote netip.AddrPort }

// Counters are totals since New, except Established.
type Counters struct {
	// Established is how many connections are open now.
	Established uint64
	// Accepted and Dialled count the flows that came to be.
	Accepted, Dialled uint64
	// Overflow counts SYNs that were reset because too many waited.
	Overflow uint64
	// Filtered counts injected packets that are neither TCP nor an ICMP
	// error, or whose header lies; BadChecksum those with a wrong checksum.
	Filtered, BadChecksum uint64
	// WriteErrors counts packets that Config.Write did not take.
	WriteErrors uint64
	// Retransmits counts segments sent again.
	Retransmits uint64
}

// New makes a Stack. gVisor's packet processors, one for each CPU, run until
// Close.
func New(cfg Config) (*Stack, error) {
	if cfg.MTU == 0 {
		cfg.MTU = 1420
	}
	if cfg.MTU < minMTU || cfg.MTU > maxMTU {
		return nil, fmt.Errorf("netstack: bad MTU %d (%d to %d are possible)", cfg.MTU, minMTU, maxMTU)
	}
	if cfg.Write == nil {
		return nil, errors.New("netstack: no Write")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Stack{
		cfg:     cfg,
		log:     cfg.Logger,
		link:    newLink(cfg.MTU, cfg.Write),
		done:    make(chan struct{}),
		pending: make(map[stack.TransportEndpointID]*Pending),
		dials:   make(map[flowKey]*dial),

		acceptWait: acceptWait,
	}
	s.net = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			ipv6.NewProtocolWithOptions(ipv6.Options{NDPConfigs: ipv6.NDPConfigurations{HandleRAs: ipv6.HandlingRAsDisabled}}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC},
	})
	if err := s.setUp(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// setUp sets the options of TCP, then brings up the interface.
func (s *Stack) setUp() error {
	sack, recovery, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	for _, option := range []tcpip.SettableTransportProtocolOption{
		&sack, &recovery, &wait,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: SmallBuffer, Max: LargeBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: SmallBuffer, Max: LargeBuffer},
	} {
		if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("netstack: set %T: %s", option, err)
		}
	}
	s.fwd = tcp.NewForwarder(s.net, SmallBuffer, maxPending+1, s.handle)
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, s.syn)
	if err := s.net.CreateNICWithOptions(nicID, s.link, stack.NICOptions{QDisc: s.link}); err != nil {
		return fmt.Errorf("netstack: create interface: %s", err)
	}
	// Answer for every address, and send from every address.
	if err := s.net.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("netstack: promiscuous mode: %s", err)
	}
	if err := s.net.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("netstack: spoofing: %s", err)
	}
	s.net.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// begin notes a handler or a dial that Close must wait for. It reports false
// when the stack is closed.
func (s *Stack) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Add(1)
	}
	return !s.closed
}

// isClosed reports whether Close was called.
func (s *Stack) isClosed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Counters returns the present counts.
func (s *Stack) Counters() Counters {
	t := s.net.Stats().TCP
	return Counters{
		Established: t.CurrentEstablished.Value(),
		Accepted:    s.accepted.Load(),
		Dialled:     s.dialled.Load(),
		Overflow:    s.overflow.Load(),
		Filtered:    s.link.filtered.Load(),
		BadChecksum: s.link.badChecksum.Load(),
		WriteErrors: s.link.writeErrors.Load(),
		Retransmits: t.Retransmits.Value(),
	}
}

// Close resets all flows, ends pending requests and dials, and waits until
// every handler has returned and every goroutine of gVisor is gone. Config's
// Write may be called until then. Closing again does nothing.
func (s *Stack) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	for _, p := range s.pending {
		p.giveUp()
	}
	s.mu.Unlock()
	close(s.done)

	s.abortUntilIdle()
	s.net.Close()
	s.net.Wait()
}

// abortUntilIdle waits for handlers and dials. A handshake that one of them is
// in ends only when its endpoint is aborted, and may have begun after the last
// look: hence the loop.
func (s *Stack) abortUntilIdle() {
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		s.work.Wait()
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, endpoint := range s.net.RegisteredEndpoints() {
			endpoint.Abort()
		}
		select {
		case <-idle:
			return
		case <-tick.C:
		}
	}
}
