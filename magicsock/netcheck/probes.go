package netcheck

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

const (
	defaultSTUNPort = relay.DefaultSTUNPort
	webTime         = 3 * time.Second
	captiveTime     = 2 * time.Second
	echoTime        = time.Second
	hairpinTime     = 100 * time.Millisecond
	maxBody         = 16 << 10
)

// web asks the relays by HTTP and, in a full run, by ICMP.
func (u *run) web(ctx context.Context) {
	defer close(u.webDone)
	if !u.full {
		u.awaitSTUN(ctx)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, i := range u.needWeb(time.Now()) {
		url := u.r.Relays[i].URL // never changes
		wg.Go(func() {
			d, err := u.askWeb(ctx, url)
			u.mu.Lock()
			defer u.mu.Unlock()
			switch {
			case err == nil:
				u.r.Relays[i].HTTPS = d
				u.tls = u.tls || url.Parsed().Scheme == "https" && !u.c.cfg.InsecureTLS
			case ctx.Err() == nil: // else it had no time
				u.r.Relays[i].Err = identity.Clean(err.Error(), maxErr)
				u.relays[i].webFailed = true
			}
		})
		if u.full && !u.c.cfg.NoICMP {
			wg.Go(func() { u.ping(ctx, i, url) })
		}
	}
}

// awaitSTUN waits until the answers by STUN are there, or fail to come.
func (u *run) awaitSTUN(ctx context.Context) {
	timer := time.NewTimer(blockedTime)
	defer timer.Stop()
	select {
	case <-u.enough:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// needWeb chooses the relays to ask by HTTP: all of them in a full run and when no
// STUN answer came; else those that gave none, every few minutes, and at once when
// they gave one last time.
func (u *run) needWeb(now time.Time) []int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.c.mu.Lock()
	defer u.c.mu.Unlock()
	var list []int
	for i := range u.r.Relays {
		l := &u.r.Relays[i]
		old := u.previous.relay(l.URL)
		asked, known := u.c.webAsked[l.URL]
		due := !known || now.Sub(asked) >= historyTime/2
		lost := old.STUNv4+old.STUNv6 > 0 && old.at.Equal(u.previous.At)
		if u.full || len(u.r.Mapped) == 0 || l.STUNv4+l.STUNv6 == 0 && (due || lost) {
			u.c.webAsked[l.URL] = now
			list = append(list, i)
		}
	}
	return list
}

// webPaths tell that a relay is there.
var webPaths = []string{"ping", "relay/probe"}

// askWeb times a request to a relay on a connection that is open already.
func (u *run) askWeb(ctx context.Context, url identity.RelayURL) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, webTime)
	defer cancel()
	transport := &http.Transport{
		DialContext: u.c.cfg.Dial, Proxy: u.c.cfg.Proxy,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: u.c.cfg.InsecureTLS, MinVersion: tls.VersionTLS12},
		MaxResponseHeaderBytes: maxBody,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: noRedirect}
	var path string
	var err error
	for _, p := range webPaths { // this opens the connection
		u := url.Parsed().JoinPath(p)
		// A proxy, and the relay, know the name without the dot of the root.
		u.Host = strings.Replace(u.Host, u.Hostname(), strings.TrimSuffix(u.Hostname(), "."), 1)
		path = u.String()
		if err = get(ctx, client, path); !errors.Is(err, errNotFound) {
			break
		}
	}
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := get(ctx, client, path); err != nil {
		return 0, err
	}
	took := max(time.Since(began), 1)
	u.tell("%s answers by HTTP in %.1f ms", url, float64(took)/float64(time.Millisecond))
	return took, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

var (
	errNotFound = errors.New("no such page")
	errLong     = errors.New("the answer is too long")
)

// get makes one request and reads the answer, so that the connection can serve
// another one.
func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return err
	case n > maxBody:
		return errLong
	case resp.StatusCode == http.StatusNotFound:
		return errNotFound
	case resp.StatusCode/100 != 2:
		return errors.New(resp.Status)
	}
	return nil
}

// captive asks a relay by plain HTTP for a page that a login page in between
// cannot make up.
func (u *run) captive(ctx context.Context) {
	host := u.captiveHost()
	if host == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, captiveTime)
	defer cancel()
	verdict := u.askCaptive(ctx, host)
	u.mu.Lock()
	u.r.CaptivePortal = verdict
	u.mu.Unlock()
	if verdict.IsTrue() {
		u.tell("another page (captive portal?) answers instead of %s", host)
	}
}

// captiveHost is the preferred relay, else the first one.
func (u *run) captiveHost() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	host := ""
	for _, l := range u.r.Relays {
		if host == "" || u.previous != nil && l.URL == u.previous.Preferred {
			host = l.URL.Parsed().Hostname()
		}
	}
	return host
}

// askCaptive says whether somebody else answered; unknown when nobody did, or
// only to say that the page is to be had by HTTPS, as many servers do.
func (u *run) askCaptive(ctx context.Context, host string) Maybe {
	transport := &http.Transport{DialContext: u.c.cfg.Dial, MaxResponseHeaderBytes: maxBody, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: noRedirect}
	challenge := "nt_" + hex.EncodeToString(random(8))
	page := url.URL{Scheme: "http", Host: net.JoinHostPort(host, "80"), Path: "/generate_204"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page.String(), nil)
	if err != nil {
		return Unknown
	}
	req.Header.Set("X-Tailscale-Challenge", challenge)
	resp, err := client.Do(req)
	if err != nil {
		u.c.cfg.Logger.Debug("netcheck: captive portal", "err", err)
		return Unknown
	}
	resp.Body.Close()
	if to, err := resp.Location(); err == nil && resp.StatusCode/100 == 3 && to.Scheme == "https" && sameName(to.Hostname(), host) {
		return Unknown
	}
	return MaybeOf(resp.StatusCode != http.StatusNoContent || resp.Header.Get("X-Tailscale-Response") != "response "+challenge)
}

// sameName compares host names; a last dot makes no difference.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// portmap asks the router.
func (u *run) portmap(ctx context.Context) {
	if u.c.cfg.PortmapProbe == nil {
		return
	}
	p, ok := u.c.cfg.PortmapProbe(ctx)
	if !ok {
		return
	}
	u.mu.Lock()
	u.r.Portmap = &p
	u.mu.Unlock()
	if p.UPnP || p.PCP || p.NATPMP {
		u.tell("the router maps ports")
	}
}

// tryHairpin sends a packet to our own address outside: does the router send it
// back in?
func (u *run) tryHairpin(ctx context.Context, own netip.AddrPort) {
	back := make(chan answer, 1)
	tx, b, ok := u.c.launch(own, true, back)
	if !ok {
		return
	}
	defer u.c.land(tx)
	verdict := False
	if u.c.cfg.Send(b, own) == nil {
		timer := time.NewTimer(hairpinTime)
		defer timer.Stop()
		select {
		case <-back:
			verdict = True
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
	u.mu.Lock()
	u.r.Hairpin = verdict
	u.mu.Unlock()
}

// ping sends an echo request to a relay.
func (u *run) ping(parent context.Context, place int, url identity.RelayURL) {
	ctx, cancel := context.WithTimeout(parent, echoTime)
	defer cancel()
	addrs, err := u.c.lookup(ctx, url.Parsed().Hostname())
	if err != nil {
		return
	}
	for _, want4 := range []bool{true, false} {
		for _, a := range addrs {
			if a = a.Unmap(); a.Is4() != want4 {
				continue
			}
			d, err := echo(ctx, u.c.cfg, a)
			u.mu.Lock()
			if err == nil {
				u.r.Relays[place].ICMP = max(d, 1)
			}
			if err == nil || errors.Is(err, errEcho) && parent.Err() == nil {
				field := &u.r.ICMPv6
				if want4 {
					field = &u.r.ICMPv4
				}
				if *field != True {
					*field = MaybeOf(err == nil)
				}
			}
			u.mu.Unlock()
			break
		}
	}
}

// errEcho says that an echo request left and nothing came back.
var errEcho = errors.New("no echo")

// echo sends one echo request and waits for the reply (RFC 792, RFC 4443).
func echo(ctx context.Context, cfg Config, to netip.Addr) (time.Duration, error) {
	network, local := "ip6:ipv6-icmp", "::"
	var request, reply icmp.Type = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	if to.Is4() {
		network, local, request, reply = "ip4:icmp", "0.0.0.0", ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	}
	conn, err := (&net.ListenConfig{Control: cfg.Control}).ListenPacket(ctx, network, local)
	if err != nil {
		return 0, fmt.Errorf("icmp: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	nonce := random(16)
	id := int(binary.BigEndian.Uint16(nonce))
	message := icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: 1, Data: nonce}}
	b, err := message.Marshal(nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return 0, errEcho
		}
		took := time.Since(began)
		if ip, ok := from.(*net.IPAddr); !ok || !ip.IP.Equal(to.AsSlice()) {
			continue
		}
		m, err := icmp.ParseMessage(protocol(to), buf[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && string(e.Data) == string(nonce) {
			return took, nil
		}
	}
}

// protocol is the number of ICMP for an address.
func protocol(a netip.Addr) int {
	if a.Is4() {
		return 1
	}
	return 58
}
