package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/internal/localapi"
)

// libraryPatience is how long the C library may take, serverPatience one server. glibc gives
// a server that is silent 5 s, twice.
const (
	libraryPatience = 12 * time.Second
	serverPatience  = 3 * time.Second
)

// Answer is what became of one question for a name.
type Answer struct {
	Addrs []netip.Addr
	Err   error
	Took  time.Duration
}

// Names is what is known of the way from a program on this host to an address, when it
// asks for this node's own name.
type Names struct {
	// Zone, Name and Own are those of the node, Mode how it has told the host.
	Zone, Name string
	Own        []netip.Addr
	Mode       string
	// Server is where the node answers; invalid if nowhere.
	Server netip.AddrPort
	// Nameservers are those of ResolvConf in its order.
	ResolvConf  string
	Nameservers []string
	// Switch are the words of the line hosts in /etc/nsswitch.conf; nil where there is none.
	Switch []string
	// FromServer is the answer of the node's server, First that of the first of
	// Nameservers, Library that of the C library. Those that were not asked have an Err of
	// errNotAsked.
	FromServer, First, Library Answer
	// Cached is whether nscd runs, which remembers answers.
	Cached bool
}

var (
	errNotAsked = errors.New("not asked")
	errNoName   = errors.New("no such name")
)

// LookAtNames asks for the node's own name in every way.
func LookAtNames(ctx context.Context, self *localapi.Self) Names {
	n := Names{
		Zone: self.Zone, Name: self.FQDN, Mode: self.DNS, ResolvConf: "/etc/resolv.conf",
		FromServer: Answer{Err: errNotAsked}, First: Answer{Err: errNotAsked},
	}
	for _, text := range []*string{&self.IPv6, self.IPv4} {
		if text != nil {
			if addr, err := netip.ParseAddr(*text); err == nil {
				n.Own = append(n.Own, addr)
			}
		}
	}
	n.Server, _ = netip.ParseAddrPort(self.DNSServer)
	content, _ := os.ReadFile(n.ResolvConf)
	n.Nameservers = nameservers(string(content))
	if content, err := os.ReadFile("/etc/nsswitch.conf"); err == nil {
		n.Switch = hostsLine(string(content))
	}
	_, err := os.Stat("/run/nscd/socket")
	n.Cached = err == nil
	var questions sync.WaitGroup
	if n.Server.IsValid() {
		questions.Go(func() { n.FromServer = ask(ctx, n.Server, n.Name) })
	}
	if addr, err := netip.ParseAddr(n.Nameservers[0]); err == nil {
		questions.Go(func() { n.First = ask(ctx, netip.AddrPortFrom(addr, 53), n.Name) })
	}
	questions.Go(func() { n.Library = getent(ctx, n.Name) })
	questions.Wait()
	return n
}

// nameservers lists the servers of a resolv.conf; one that names none means this host's
// own (resolv.conf(5)).
func nameservers(content string) []string {
	var list []string
	for line := range strings.Lines(content) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			list = append(list, f[1])
		}
	}
	if len(list) == 0 {
		return []string{"127.0.0.1"}
	}
	return list
}

// hostsLine returns the words of the line hosts in an nsswitch.conf.
func hostsLine(content string) []string {
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "hosts:"); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

// ask asks one server for the addresses of a name, by UDP. (The resolver of Go would look
// into nsswitch.conf first whether it may ask.)
func ask(ctx context.Context, server netip.AddrPort, name string) Answer {
	began := time.Now()
	client := dns.Client{Timeout: serverPatience}
	a := Answer{}
	for _, kind := range []uint16{dns.TypeAAAA, dns.TypeA} {
		reply, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), kind), server.String())
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return Answer{Err: errors.New("no answer")}
		case err != nil:
			return Answer{Err: err}
		case reply.Rcode == dns.RcodeNameError:
			return Answer{Err: errNoName}
		case reply.Rcode != dns.RcodeSuccess:
			return Answer{Err: errors.New(strings.ToLower(dns.RcodeToString[reply.Rcode]))}
		}
		for _, record := range reply.Answer {
			var ip net.IP
			switch record := record.(type) {
			case *dns.A:
				ip = record.A
			case *dns.AAAA:
				ip = record.AAAA
			}
			if addr, ok := netip.AddrFromSlice(ip); ok {
				a.Addrs = append(a.Addrs, addr.Unmap())
			}
		}
	}
	a.Took = time.Since(began)
	return a
}

// getent asks the C library of this host, of which this program knows nothing.
func getent(ctx context.Context, name string) Answer {
	path, err := exec.LookPath("getent")
	if err != nil {
		return Answer{Err: errNotAsked}
	}
	ctx, cancel := context.WithTimeout(ctx, libraryPatience)
	defer cancel()
	began := time.Now()
	out, err := exec.CommandContext(ctx, path, "ahosts", name).Output()
	a := Answer{Took: time.Since(began)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		a.Err = fmt.Errorf("no answer within %v", libraryPatience)
		return a
	case errors.As(err, &exit) && exit.ExitCode() == 2:
		a.Err = errNoName
		return a
	case err != nil:
		a.Err = err
		return a
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 {
			if addr, err := netip.ParseAddr(f[0]); err == nil && !slices.Contains(a.Addrs, addr) {
				a.Addrs = append(a.Addrs, addr)
			}
		}
	}
	return a
}

// right reports whether an answer is the node's own address and nothing else.
func (n *Names) right(a Answer) bool {
	return a.Err == nil && len(a.Addrs) > 0 && !slices.ContainsFunc(a.Addrs, func(addr netip.Addr) bool { return !slices.Contains(n.Own, addr) })
}

// words says what an answer was.
func (a Answer) words() string {
	if a.Err != nil {
		return a.Err.Error()
	}
	if len(a.Addrs) == 0 {
		return "no address"
	}
	var list []string
	for _, addr := range a.Addrs {
		list = append(list, addr.String())
	}
	return fmt.Sprintf("%s (%v)", strings.Join(list, " "), a.Took.Round(100*time.Microsecond))
}

// Findings tells, from the node to the program, where the way is broken. Behind the first
// break on that way only what programs see is told.
func (n *Names) Findings() []Finding {
	list := []Finding{n.server()}
	if list[0].OK {
		list = append(list, n.host())
	}
	if n.Library.Err == errNotAsked {
		return append(list, well("C library", "not asked: there is no program getent here"))
	}
	return append(list, n.library(list))
}

// server judges the node itself.
func (n *Names) server() Finding {
	const subject = "nodetun"
	switch {
	case !n.Server.IsValid():
		return Finding{Subject: subject, Text: "it answers no questions for names", Fix: "see the last lines of `nodetun status`"}
	case !n.right(n.FromServer):
		return Finding{
			Subject: subject, Text: fmt.Sprintf("asked for %s at %s: %s", n.Name, n.Server, n.FromServer.words()),
			Fix: "a firewall of this host may drop it (`nft list ruleset`), or another program has that address (`ss -lunp 'sport = :" + fmt.Sprint(n.Server.Port()) + "'`)",
		}
	}
	return well(subject, fmt.Sprintf("%s at %s: %s", n.Name, n.Server, n.FromServer.words()))
}

// host judges what the host asks.
func (n *Names) host() Finding {
	const subject = "host"
	first := n.Nameservers[0]
	told := map[string]string{
		"resolved": "systemd-resolved was told of " + n.Zone, "file": n.ResolvConf + " asks nodetun first",
		"networkmanager": n.ResolvConf + ", which NetworkManager writes, asks nodetun first",
		"resolvconf":     n.ResolvConf + ", which resolvconf writes, asks nodetun first",
	}[n.Mode]
	switch {
	case n.right(n.First) && told != "":
		return well(subject, told)
	case n.right(n.First): // a server that was told by hand
		return well(subject, fmt.Sprintf("the server %s asks nodetun for %s", first, n.Zone))
	case told == "":
		return Finding{
			Subject: subject, Text: fmt.Sprintf("programs ask %s for %s, which does not ask nodetun: %s", first, n.Zone, n.First.words()),
			Fix: fmt.Sprintf("take `dns` out of nodetun.toml and --dns off the command line, or have %s ask %s for %s", first, n.Server, n.Zone),
		}
	case n.Mode == "resolved":
		return Finding{
			Subject: subject, Text: fmt.Sprintf("%s, but %s, which programs ask, says: %s", told, first, n.First.words()),
			Fix: "see `resolvectl status` and `resolvectl query " + n.Name + "`; a server or domain `~.` of another link may be in the way",
		}
	default:
		return Finding{
			Subject: subject, Text: fmt.Sprintf("%s should name %s first, but names %s, which says: %s", n.ResolvConf, n.Server.Addr(), first, n.First.words()),
			Fix: "another program writes that file again and again: it is named there, or by `ls -l " + n.ResolvConf + "`",
		}
	}
}

// library judges what ssh sees.
func (n *Names) library(before []Finding) Finding {
	const subject = "C library"
	if n.right(n.Library) {
		return well(subject, "ssh and other programs find "+n.Name+": "+n.Library.words())
	}
	f := Finding{Subject: subject, Text: fmt.Sprintf("ssh and other programs that ask for %s hear: %s", n.Name, n.Library.words())}
	modules := slices.DeleteFunc(slices.Clone(n.Switch), func(word string) bool { return strings.HasPrefix(word, "[") })
	asksDNS, asksResolved := slices.Index(modules, "dns"), slices.Index(modules, "resolve")
	switch {
	case Problems(before) > 0:
		f.Fix = "mend what is named above first"
	case n.Switch != nil && asksDNS < 0 && (asksResolved < 0 || n.Mode != "resolved"):
		f.Fix = fmt.Sprintf("/etc/nsswitch.conf has them ask %q alone: add dns to the line hosts", strings.Join(modules, " "))
	case n.Mode != "resolved" && asksResolved >= 0 && asksResolved < asksDNS:
		f.Fix = `/etc/nsswitch.conf has them ask systemd-resolved, not resolv.conf: set dns = "resolved" in nodetun.toml, or take resolve out of the line hosts`
	case n.Switch != nil && asksDNS > 0 && slices.Contains(n.Switch[:slices.Index(n.Switch, "dns")], "[NOTFOUND=return]"):
		f.Fix = "/etc/nsswitch.conf ends the search before dns ([NOTFOUND=return]): move dns to the front of the line hosts"
	case n.Cached:
		f.Fix = "nscd may remember an older answer: sudo nscd --invalidate=hosts"
	default:
		f.Fix = "see /etc/nsswitch.conf, /etc/host.conf and the line options in " + n.ResolvConf
	}
	return f
}
