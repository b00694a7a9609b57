package portmaptest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/natpmp"
	"github.com/nodetun/nodetun/magicsock/portmap/pcp"
	"github.com/nodetun/nodetun/magicsock/portmap/ssdp"
)

// Options say how the router is to be.
type Options struct {
	// LAN is where it stands; nil: on this host.
	LAN *LAN
	// Addr is its address inside; External the one outside.
	Addr, External netip.Addr
	// PCP, NATPMP and UPnP say what it speaks.
	PCP, NATPMP, UPnP bool
	// Lifetime is the longest that it grants; 0: two hours.
	Lifetime time.Duration
	// Permanent makes UPnP refuse mappings that end.
	Permanent bool
	// Refuse makes it refuse every mapping.
	Refuse bool
	// Map is called for a new mapping, Unmap for one that ends. They may be nil;
	// the error of Map is a refusal.
	Map   func(internal netip.AddrPort, external uint16) error
	Unmap func(internal netip.AddrPort, external uint16)
}

// Mapping is a port that the router maps.
type Mapping struct {
	Internal netip.AddrPort
	External uint16
	Protocol string // pcp, nat-pmp or upnp
	Expires  time.Time
}

// Router serves until Close.
type Router struct {
	opts     Options
	udp      packetConn // PCP and NAT-PMP
	search   packetConn // SSDP
	location string
	http     *http.Server
	wg       sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	began    time.Time
	boot     int
	mappings map[uint16]Mapping // by port outside
	requests int
}

// packetConn is a UDP socket of this host or of a LAN.
type packetConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	Close() error
}

// Start begins to serve at Options.Addr.
func Start(o Options) (*Router, error) {
	if o.Lifetime == 0 {
		o.Lifetime = 2 * time.Hour
	}
	r := &Router{opts: o, began: time.Now(), boot: 1, mappings: make(map[uint16]Mapping)}
	if o.PCP || o.NATPMP {
		conn, err := r.listen(natpmp.ServerPort)
		if err != nil {
			return nil, err
		}
		r.udp = conn
		r.wg.Go(func() { r.serve(conn, r.answer) })
	}
	if o.UPnP {
		if err := r.startIGD(); err != nil {
			r.Close()
			return nil, err
		}
	}
	return r, nil
}

func (r *Router) listen(port uint16) (packetConn, error) {
	local := netip.AddrPortFrom(r.opts.Addr, port)
	if r.opts.LAN != nil {
		s, err := r.opts.LAN.Listen(local)
		if err != nil {
			return nil, fmt.Errorf("portmaptest: %w", err)
		}
		return s, nil
	}
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, fmt.Errorf("portmaptest: %w", err)
	}
	return conn, nil
}

// Close ends it. Mappings stay as they are.
func (r *Router) Close() {
	for _, conn := range []packetConn{r.udp, r.search} {
		if conn != nil {
			conn.Close()
		}
	}
	if r.http != nil {
		r.http.Close()
	}
	r.wg.Wait()
}

// serve answers packets; answer returns nil for none.
func (r *Router) serve(conn packetConn, answer func(b []byte, from netip.AddrPort) []byte) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if b := answer(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())); b != nil {
			_, _ = conn.WriteToUDPAddrPort(b, from)
		}
	}
}

// Requests is how many requests it has had.
func (r *Router) Requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// Mappings are those that have not ended.
func (r *Router) Mappings() []Mapping {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Mapping
	for _, m := range r.mappings {
		if time.Now().Before(m.Expires) {
			list = append(list, m)
		}
	}
	return list
}

// Reboot forgets all mappings and starts the clock anew; announce tells the hosts
// of group inside, from the address that routers announce from.
func (r *Router) Reboot(announce bool) {
	r.mu.Lock()
	old := r.mappings
	r.mappings = make(map[uint16]Mapping)
	r.began = time.Now()
	r.boot++
	r.mu.Unlock()
	for _, m := range old {
		r.unmap(m)
	}
	if announce && r.opts.PCP {
		_, _ = r.udp.WriteToUDPAddrPort(pcp.AppendAnswer(nil, pcp.Answer{Op: pcp.OpAnnounce}), natpmp.AllHosts())
	}
	if announce && r.opts.NATPMP {
		b := natpmp.AppendAnswer(nil, natpmp.Answer{Op: natpmp.OpAddress, Addr: r.opts.External})
		_, _ = r.udp.WriteToUDPAddrPort(b, natpmp.AllHosts())
	}
	if announce && r.search != nil {
		b := ssdp.AppendNotice(nil, r.notice(ssdp.Alive))
		_, _ = r.search.WriteToUDPAddrPort(b, ssdp.Group())
	}
}

func (r *Router) epoch() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.began)
}

func (r *Router) unmap(m Mapping) {
	if r.opts.Unmap != nil {
		r.opts.Unmap(m.Internal, m.External)
	}
}

// errTaken says that a port is another's.
var errTaken = errors.New("taken")

// grant maps a port: the wanted one, else the next that is free unless exact. The
// same host and port keep what they have. A lifetime of 0 ends it.
func (r *Router) grant(internal netip.AddrPort, want uint16, lifetime time.Duration, protocol string, exact bool) (Mapping, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opts.Refuse {
		return Mapping{}, errors.New("refused")
	}
	for port, m := range r.mappings {
		if m.Internal == internal && (!exact || port == want) {
			want = port
		}
	}
	if lifetime == 0 {
		if m, ok := r.mappings[want]; ok && m.Internal == internal {
			delete(r.mappings, want)
			r.unmap(m)
		}
		return Mapping{Internal: internal}, nil
	}
	if want == 0 {
		want = internal.Port()
	}
	for r.mappings[want].Internal.IsValid() && r.mappings[want].Internal != internal {
		if exact {
			return Mapping{}, errTaken
		}
		want = max(want+1, 1024)
	}
	if _, had := r.mappings[want]; !had && r.opts.Map != nil {
		if err := r.opts.Map(internal, want); err != nil {
			return Mapping{}, err
		}
	}
	m := Mapping{Internal: internal, External: want, Protocol: protocol, Expires: time.Now().Add(min(lifetime, r.opts.Lifetime))}
	r.mappings[want] = m
	return m, nil
}

func (r *Router) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
}
