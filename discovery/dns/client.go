package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// tryTimeout ends one question to one server.
	tryTimeout = time.Second
	// maxUDP is the largest answer by UDP that is asked for (RFC 9715).
	maxUDP = 1232
	// maxRecords is how many records of an answer are read.
	maxRecords = 64
)

// stagger is when questions about one name begin, of which each goes to the next server
// (iroh-net 0.28.1).
var stagger = [...]time.Duration{0, 200 * time.Millisecond, 300 * time.Millisecond}

// Errors of a Client.
var (
	// ErrNotFound says that a server knows that there is no such record.
	ErrNotFound = errors.New("no record")
	// ErrBadAnswer says that a server answered something else.
	ErrBadAnswer = errors.New("an answer that is none")
)

// Client asks DNS servers. The zero value asks those of this host.
type Client struct {
	// Servers are asked in their order; it is called for each name. Nil: HostServers.
	Servers func() []netip.AddrPort
	// Dialer makes the sockets. Nil: one without settings.
	Dialer *net.Dialer
}

// Public are servers that are asked when the host names none: those of Cloudflare, Google
// and Quad9.
func Public() []netip.AddrPort {
	var list []netip.AddrPort
	for _, ip := range []string{"1.1.1.1", "8.8.8.8", "9.9.9.9", "2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe"} {
		list = append(list, netip.AddrPortFrom(netip.MustParseAddr(ip), 53))
	}
	return list
}

// HostServers are the servers of /etc/resolv.conf, or Public if it names none.
func HostServers() []netip.AddrPort { return serversOf("/etc/resolv.conf") }

func serversOf(path string) (list []netip.AddrPort) {
	config, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return Public()
	}
	for _, server := range config.Servers {
		// Addresses that Windows made up for want of any (RFC 3879).
		if ip, err := netip.ParseAddr(server); err == nil && !siteLocal.Contains(ip.WithZone("")) {
			list = append(list, netip.AddrPortFrom(ip, 53))
		}
	}
	if len(list) == 0 {
		return Public()
	}
	return list
}

var siteLocal = netip.MustParsePrefix("fec0:0:0:ffff::/64")

// TXT returns the texts of the TXT records of a name, each of them whole. Records of other
// names in the answer, where a CNAME leads, do not count. The error wraps ErrNotFound,
// ErrBadAnswer, or what the network says.
func (c *Client) TXT(ctx context.Context, name string) ([]string, error) {
	servers := c.servers()
	if len(servers) == 0 {
		return nil, errors.New("no DNS server is known")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		texts []string
		err   error
	}
	results := make(chan result, len(stagger))
	for i, delay := range stagger {
		go func() {
			select {
			case <-ctx.Done():
				results <- result{err: ctx.Err()}
				return
			case <-time.After(delay):
			}
			texts, err := c.ask(ctx, servers[i%len(servers)], dns.Fqdn(name))
			results <- result{texts, err}
		}()
	}
	var final result
	var errs []error
	done := false
	for range stagger { // all have ended when this returns
		r := <-results
		switch {
		case done:
		case r.err == nil, errors.Is(r.err, ErrNotFound):
			final, done = r, true
			cancel()
		default:
			errs = append(errs, r.err)
		}
	}
	if !done {
		final.err = errors.Join(errs...)
	}
	return final.texts, final.err
}

func (c *Client) servers() []netip.AddrPort {
	if c.Servers == nil {
		return HostServers()
	}
	return c.Servers()
}

// ask asks one server, by TCP if the answer does not fit into a packet.
func (c *Client) ask(ctx context.Context, server netip.AddrPort, name string) ([]string, error) {
	req := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
	req.SetEdns0(maxUDP, false)
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: tryTimeout, Dialer: c.Dialer, UDPSize: maxUDP}
		res, _, err := client.ExchangeContext(ctx, req, server.String())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server, err)
		}
		if network == "udp" && res.Truncated {
			continue
		}
		return texts(res, req)
	}
	return nil, ErrBadAnswer // an answer by TCP is whole
}

// texts reads the answer to a question.
func texts(res, req *dns.Msg) (list []string, err error) {
	q := req.Question[0]
	switch {
	case !res.Response || len(res.Question) != 1 || !strings.EqualFold(res.Question[0].Name, q.Name) || res.Question[0].Qtype != q.Qtype:
		return nil, ErrBadAnswer
	case res.Rcode == dns.RcodeNameError:
		return nil, ErrNotFound
	case res.Rcode != dns.RcodeSuccess:
		return nil, fmt.Errorf("%w: %s", ErrBadAnswer, dns.RcodeToString[res.Rcode])
	}
	for _, rr := range res.Answer[:min(len(res.Answer), maxRecords)] {
		txt, ok := rr.(*dns.TXT)
		if ok && strings.EqualFold(txt.Hdr.Name, q.Name) && txt.Hdr.Class == dns.ClassINET {
			list = append(list, strings.Join(txt.Txt, ""))
		}
	}
	if len(list) == 0 {
		return nil, ErrNotFound
	}
	return list, nil
}
