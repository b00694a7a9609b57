package portmap

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/soap"

	"github.com/nodetun/nodetun/magicsock/portmap/ssdp"
)

const (
	// igdLease is asked for; older devices know mappings without end only.
	igdLease = time.Hour
	// igdForever is how long a mapping without end is believed in.
	igdForever = 2 * time.Hour
	// igdTries bounds the ports that are tried when one is taken.
	igdTries = 4
	// igdBody bounds what is read of a description or an answer.
	igdBody = 256 << 10
	// igdServices bounds how many services of a device are asked.
	igdServices = 4
	// maxLocation bounds the URL of a description.
	maxLocation = 512

	igdName = "nodetun"
	// gatewayType is that of gateways of any version.
	gatewayType = "urn:schemas-upnp-org:device:InternetGatewayDevice:"
)

// Error codes of WANIPConnection:2, 2.5.
const (
	igdNoSuchEntry     = 714
	igdConflict        = 718
	igdOnlyPermanent   = 725
	igdConflictOther   = 729
	igdNotAuthorized   = 606
	igdActionFailed    = 501
	igdInvalidArgument = 402
)

// igd is UPnP's Internet Gateway Device.
type igd struct {
	c    *Client
	gw   Gateway
	http http.Client

	mu     sync.Mutex // guards the field below
	device *igdDevice // nil until found
}

// igdDevice is what was found.
type igdDevice struct {
	usn, boot string
	service   string // type of the service
	soap      *soap.SOAPClient
}

func newIGD(c *Client, gw Gateway) *igd {
	g := &igd{c: c, gw: gw}
	g.http = http.Client{
		Transport: bounded{&http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				to, err := netip.ParseAddrPort(address)
				if err != nil || to.Addr() != gw.Addr {
					return nil, fmt.Errorf("%s is not the router", address)
				}
				return c.dial(ctx, gw, network, address)
			},
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       3 * time.Second,
	}
	return g
}

// bounded cuts what is read of a body.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, igdBody), resp.Body}
	}
	return resp, err
}

func (g *igd) found() *igdDevice {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.device
}

// find searches for the router's device and reads its description. Only what
// the router itself answers counts.
func (g *igd) find(ctx context.Context) error {
	conn, err := g.c.listen(netip.AddrPortFrom(g.gw.Self, 0))
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	direct := netip.AddrPortFrom(g.gw.Addr, ssdp.Port)
	buf := make([]byte, ssdp.MaxSize)
	tried := make(map[string]bool)
	failure := errNoAnswer
	for pause := firstPause; ; pause *= 2 {
		// To the router alone, which answers at once, and to the group, for
		// those that hear nothing else.
		_, _ = conn.WriteToUDPAddrPort(ssdp.AppendSearch(nil, direct, ssdp.Gateway, 0), direct)
		_, _ = conn.WriteToUDPAddrPort(ssdp.AppendSearch(nil, ssdp.Group(), ssdp.Gateway, 1), ssdp.Group())
		for deadline := time.Now().Add(pause); ; {
			m, err := g.response(ctx, conn, buf, deadline)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return failure
			}
			if tried[m.Location] || len(tried) >= igdServices {
				continue
			}
			tried[m.Location] = true
			if failure = g.describe(ctx, m); failure == nil {
				return nil
			}
		}
	}
}

// response returns the next response of the router. Its port is any: devices
// answer from where they like. The error is os.ErrDeadlineExceeded when that
// is what happened.
func (g *igd) response(ctx context.Context, conn PacketConn, buf []byte, deadline time.Time) (ssdp.Message, error) {
	var found ssdp.Message
	router := func(from netip.AddrPort) bool { return from.Addr().Unmap() == g.gw.Addr }
	answered, err := await(ctx, conn, router, buf, deadline, func(b []byte) bool {
		m, err := ssdp.Parse(b)
		if err != nil || m.Kind != ssdp.Response || len(m.Location) > maxLocation {
			return false
		}
		found = m
		return true
	})
	if err == nil && !answered {
		err = os.ErrDeadlineExceeded
	}
	return found, err
}

// describe reads the description of a device and keeps its first service that
// has an address outside.
func (g *igd) describe(ctx context.Context, m ssdp.Message) error {
	root, err := g.description(ctx, m.Location)
	if err != nil {
		return err
	}
	err = errNotSpoken
	asked := 0
	for _, kind := range []string{
		"urn:schemas-upnp-org:service:WANIPConnection:2",
		"urn:schemas-upnp-org:service:WANIPConnection:1",
		"urn:schemas-upnp-org:service:WANPPPConnection:1",
	} {
		for _, s := range root.Device.FindService(kind) {
			if asked++; asked > igdServices {
				return err
			}
			d := &igdDevice{usn: m.USN, boot: m.BootID, service: kind, soap: soap.NewSOAPClient(s.ControlURL.URL)}
			d.soap.HTTPClient = g.http
			if _, err = d.address(ctx); err == nil {
				g.mu.Lock()
				g.device = d
				g.mu.Unlock()
				return nil
			}
		}
	}
	return err
}

func (g *igd) description(ctx context.Context, location string) (*goupnp.RootDevice, error) {
	base, err := url.Parse(location)
	if err != nil || base.Scheme != "http" {
		return nil, fmt.Errorf("location %q is no URL of a router", location)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
	if err != nil {
		return nil, fmt.Errorf("description: %w", err)
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("description: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("description: %s", resp.Status)
	}
	root := new(goupnp.RootDevice)
	dec := xml.NewDecoder(resp.Body)
	dec.DefaultSpace = goupnp.DeviceXMLNamespace
	if err := dec.Decode(root); err != nil {
		return nil, fmt.Errorf("description: %w", err)
	}
	if other, err := url.Parse(root.URLBaseStr); err == nil && other.IsAbs() {
		base = other
	}
	root.SetURLBase(base)
	return root, nil
}

// address asks for the external address.
func (d *igdDevice) address(ctx context.Context) (netip.Addr, error) {
	var out struct{ NewExternalIPAddress string }
	if err := d.soap.PerformActionCtx(ctx, d.service, "GetExternalIPAddress", nil, &out); err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(out.NewExternalIPAddress)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("external address: %w", err)
	}
	return addr, nil
}

func (g *igd) request(ctx context.Context, want ask) (lease, error) {
	d := g.found()
	if d == nil {
		return lease{}, errNotSpoken
	}
	addr, err := d.address(ctx)
	if err != nil {
		return lease{}, igdError(err)
	}
	port := want.external.Port()
	if port == 0 {
		port = want.internal
	}
	for range igdTries {
		var life time.Duration
		if life, err = d.add(ctx, g.gw.Self, want.internal, port); err == nil {
			return lease{internal: want.internal, external: netip.AddrPortFrom(addr, port), lifetime: life}.checked()
		}
		if code := faultCode(err); code != igdConflict && code != igdConflictOther && code != igdActionFailed {
			break
		}
		port = uint16(1024 + rand.N(1<<16-1024)) // it is another's
	}
	return lease{}, igdError(err)
}

// add asks for one port and returns how long it lasts.
func (d *igdDevice) add(ctx context.Context, self netip.Addr, internal, external uint16) (time.Duration, error) {
	in := struct {
		NewRemoteHost, NewExternalPort, NewProtocol, NewInternalPort, NewInternalClient string
		NewEnabled, NewPortMappingDescription, NewLeaseDuration                         string
	}{
		"", strconv.Itoa(int(external)), "UDP", strconv.Itoa(int(internal)), self.String(),
		"1", igdName, strconv.Itoa(int(igdLease / time.Second)),
	}
	err := d.soap.PerformActionCtx(ctx, d.service, "AddPortMapping", &in, nil)
	if code := faultCode(err); code != igdOnlyPermanent && code != igdInvalidArgument {
		return igdLease, err
	}
	in.NewLeaseDuration = "0"
	return igdForever, d.soap.PerformActionCtx(ctx, d.service, "AddPortMapping", &in, nil)
}

// entry names a mapping.
type igdEntry struct{ NewRemoteHost, NewExternalPort, NewProtocol string }

func entryOf(l lease) *igdEntry {
	return &igdEntry{"", strconv.Itoa(int(l.external.Port())), "UDP"}
}

func (g *igd) verify(ctx context.Context, l lease) error {
	d := g.found()
	if d == nil {
		return errForgot
	}
	var out struct{ NewInternalPort, NewInternalClient string }
	err := d.soap.PerformActionCtx(ctx, d.service, "GetSpecificPortMappingEntry", entryOf(l), &out)
	switch {
	case faultCode(err) == igdNoSuchEntry:
		return errForgot
	case err != nil:
		return igdError(err)
	case out.NewInternalClient != g.gw.Self.String() || out.NewInternalPort != strconv.Itoa(int(l.internal)):
		return errForgot
	}
	if addr, err := d.address(ctx); err != nil || addr != l.external.Addr() {
		return errForgot
	}
	return nil
}

func (g *igd) release(ctx context.Context, l lease) error {
	d := g.found()
	if d == nil {
		return errNotSpoken
	}
	return igdError(d.soap.PerformActionCtx(ctx, d.service, "DeletePortMapping", entryOf(l), nil))
}

// hear takes notices that the device started or leaves. A byebye comes before
// the mapping is gone or after it, so the next alive counts as a start too.
func (g *igd) hear(ctx context.Context, _ lease) {
	d := g.found()
	if d == nil {
		return
	}
	boot, left := d.boot, false
	g.c.hear(ctx, g.gw, ssdp.Group(), func(b []byte, _ uint16) {
		m, err := ssdp.Parse(b)
		if err != nil || !strings.HasPrefix(m.Target, gatewayType) {
			return
		}
		switch m.Kind {
		case ssdp.Byebye:
			left = true
		case ssdp.Alive:
			started := left || m.BootID != boot && boot != ""
			boot, left = m.BootID, false
			if started {
				g.c.forgotten()
			}
		}
	})
}

// faultCode is the UPnP error code of an answer; 0 if it is none.
func faultCode(err error) int {
	if fault := (*soap.SOAPFaultError)(nil); errors.As(err, &fault) {
		return fault.Detail.UPnPError.Errorcode
	}
	return 0
}

// igdError makes a fault a refusal. Texts of the router stay out of it: they
// may be anything.
func igdError(err error) error {
	if code := faultCode(err); code != 0 {
		return &refusal{reason: fmt.Errorf("UPnP error %d", code)}
	}
	return err
}
