package portmaptest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/ssdp"
)

// wanIP is the service that maps ports.
const wanIP = "urn:schemas-upnp-org:service:WANIPConnection:1"

// startIGD serves searches and the description and control of the device.
func (r *Router) startIGD() (err error) {
	if r.search, err = r.listen(ssdp.Port); err != nil {
		return err
	}
	l, err := r.listenTCP()
	if err != nil {
		return fmt.Errorf("portmaptest: %w", err)
	}
	r.location = "http://" + l.Addr().String() + "/device.xml"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /device.xml", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, description) })
	mux.HandleFunc("POST /control", r.control)
	r.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	r.wg.Go(func() { _ = r.http.Serve(l) }) // ends with Close
	search := r.search
	r.wg.Go(func() { r.serve(search, r.respond) })
	return nil
}

func (r *Router) listenTCP() (net.Listener, error) {
	local := netip.AddrPortFrom(r.opts.Addr, 0)
	if r.opts.LAN != nil {
		return r.opts.LAN.ListenTCP(local), nil
	}
	return net.Listen("tcp4", local.String())
}

func (r *Router) respond(b []byte, _ netip.AddrPort) []byte {
	m, err := ssdp.Parse(b)
	if err != nil || m.Kind != ssdp.Search {
		return nil
	}
	r.count()
	return ssdp.AppendResponse(nil, r.notice(ssdp.Response))
}

// notice is what the device says of itself.
func (r *Router) notice(kind ssdp.Kind) ssdp.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ssdp.Message{
		Kind: kind, Target: ssdp.Gateway, Location: r.location,
		USN: "uuid:portmaptest::" + ssdp.Gateway, BootID: strconv.Itoa(r.boot),
	}
}

const description = `<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><friendlyName>test</friendlyName><UDN>uuid:portmaptest</UDN>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><UDN>uuid:portmaptest-wan</UDN>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><UDN>uuid:portmaptest-conn</UDN>
<serviceList><service><serviceType>` + wanIP + `</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<SCPDURL>/scpd.xml</SCPDURL><controlURL>/control</controlURL><eventSubURL>/events</eventSubURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>`

// envelope is a SOAP request.
type envelope struct {
	Body struct {
		Action struct {
			XMLName xml.Name
			Port    string `xml:"NewExternalPort"`
			Inside  string `xml:"NewInternalPort"`
			Client  string `xml:"NewInternalClient"`
			Lease   string `xml:"NewLeaseDuration"`
		} `xml:",any"`
	} `xml:"Body"`
}

// control serves the actions of WANIPConnection:1 that mappings need.
func (r *Router) control(w http.ResponseWriter, req *http.Request) {
	r.count()
	var e envelope
	if err := xml.NewDecoder(io.LimitReader(req.Body, 1<<16)).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a := &e.Body.Action
	host, _, _ := net.SplitHostPort(req.RemoteAddr)
	client, err := netip.ParseAddr(host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	external, inside := number(a.Port), number(a.Inside)
	name := a.XMLName.Local
	switch name {
	case "GetExternalIPAddress":
		reply(w, name, "<NewExternalIPAddress>"+r.opts.External.String()+"</NewExternalIPAddress>")
	case "AddPortMapping":
		lease := time.Duration(number(a.Lease)) * time.Second
		switch {
		case r.opts.Permanent && lease > 0:
			fault(w, 725)
			return
		case lease == 0:
			lease = 1000 * time.Hour
		}
		_, err := r.grant(netip.AddrPortFrom(client, uint16(inside)), uint16(external), lease, "upnp", true)
		switch {
		case errors.Is(err, errTaken):
			fault(w, 718)
		case err != nil:
			fault(w, 606)
		default:
			reply(w, name, "")
		}
	case "DeletePortMapping":
		m, ok := r.byPort(uint16(external))
		if !ok || m.Internal.Addr() != client {
			fault(w, 714)
			return
		}
		_, _ = r.grant(m.Internal, m.External, 0, "upnp", true)
		reply(w, name, "")
	case "GetSpecificPortMappingEntry":
		m, ok := r.byPort(uint16(external))
		if !ok {
			fault(w, 714)
			return
		}
		reply(w, name, fmt.Sprintf("<NewInternalPort>%d</NewInternalPort><NewInternalClient>%s</NewInternalClient>", m.Internal.Port(), m.Internal.Addr()))
	default:
		fault(w, 401)
	}
}

func (r *Router) byPort(port uint16) (Mapping, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.mappings[port]
	return m, ok
}

func number(text string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(text))
	return n
}

const soapHead = `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>`

func reply(w http.ResponseWriter, action, body string) {
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `%s<u:%sResponse xmlns:u="%s">%s</u:%sResponse></s:Body></s:Envelope>`, soapHead, action, wanIP, body, action)
}

func fault(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, `%s<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>`+
		`<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode><errorDescription>no</errorDescription></UPnPError>`+
		`</detail></s:Fault></s:Body></s:Envelope>`, soapHead, code)
}
