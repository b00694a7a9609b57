package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// tryTimeout ends one question.
	tryTimeout = time.Second
	// maxUDP is the largest answer by UDP that is asked for (RFC 9715).
	maxUDP = 1232
	// maxRecords is how many records of an answer are read.
	maxRecords = 64
)

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
	// Control is given each socket before it is used. May be nil.
	Control func(network, address string, c syscall.RawConn) error
}

// Resolver returns what package net asks for the addresses of hosts: /etc/hosts, then the
// servers of c.
func (c *Client) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return c.dial(ctx, network)
	}}
}

// dial makes what one question goes by: to all servers if by UDP, to the first one that is
// there if by TCP.
func (c *Client) dial(ctx context.Context, network string) (conn net.Conn, err error) {
	servers := HostServers
	if c.Servers != nil {
		servers = c.Servers
	}
	list := servers()
	if len(list) == 0 {
		return nil, errors.New("no DNS server is known")
	}
	if strings.HasPrefix(network, "udp") {
		return c.ask(ctx, list)
	}
	dialer := net.Dialer{Timeout: tryTimeout, Control: c.Control}
	for _, server := range list {
		if conn, err = dialer.DialContext(ctx, network, server.String()); err == nil {
			return conn, nil
		}
	}
	return nil, err
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
	req := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeTXT)
	req.SetEdns0(maxUDP, false)
	res, err := c.exchange(ctx, "udp", req)
	if err == nil && res.Truncated {
		res, err = c.exchange(ctx, "tcp", req)
	}
	if err != nil {
		return nil, err
	}
	return texts(res, req)
}

func (c *Client) exchange(ctx context.Context, network string, req *dns.Msg) (*dns.Msg, error) {
	conn, err := c.dial(ctx, network)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	client := dns.Client{Timeout: tryTimeout}
	res, _, err := client.ExchangeWithConnContext(ctx, req, &dns.Conn{Conn: conn})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return res, err
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
