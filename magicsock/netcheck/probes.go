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
	maxBody         = 4096
)

// web asks the relays by HTTP and ICMP: in a full run all of them, else those that
// gave no STUN answer, and only when there is none at all for a second.
func (u *run) web(ctx context.Context) {
	if !u.full {
		timer := time.NewTimer(blockedTime)
		defer timer.Stop()
		select {
		case <-u.enough:
		case <-timer.C:
		case <-ctx.Done():
		}
		u.mu.Lock()
		answered := len(u.r.Mapped) > 0
		u.mu.Unlock()
		if answered || ctx.Err() != nil {
			return
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	u.mu.Lock()
	list := u.snapshot().Relays
	u.mu.Unlock()
	for i, l := range list {
		wg.Go(func() {
			d, err := u.askWeb(ctx, l.URL)
			u.mu.Lock()
			defer u.mu.Unlock()
			if err != nil {
				u.r.Relays[i].Err = err.Error()
				return
			}
			u.r.Relays[i].HTTPS = d
		})
		if u.full && !u.c.cfg.NoICMP {
			wg.Go(func() { u.ping(ctx, i, l.URL) })
		}
	}
}

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
	best := time.Duration(0)
	for range 2 { // the first one opens the connection
		began := time.Now()
		if err := get(ctx, client, url.Parsed().JoinPath("ping").String(), nil); err != nil {
			return 0, err
		}
		best = time.Since(began)
	}
	u.tell("%s answers by HTTP in %.1f ms", url, float64(best)/float64(time.Millisecond))
	return max(best, 1), nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// get makes one request; check, which may be nil, judges the answer instead of its
// status.
func get(ctx context.Context, client *http.Client, url string, check func(*http.Response) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return err
	}
	if check != nil {
		return check(resp)
	}
	if resp.StatusCode/100 != 2 {
		return errors.New(resp.Status)
	}
	return nil
}

// captive asks a relay by plain HTTP for a page that a login page in between
// cannot make up.
func (u *run) captive(ctx context.Context) {
	var host string
	for _, n := range u.c.cfg.Relays {
		if host = n.URL.Parsed().Hostname(); host != "" {
			break
		}
	}
	if host == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, captiveTime)
	defer cancel()
	verdict, ok := u.askCaptive(ctx, host)
	if !ok {
		return
	}
	u.mu.Lock()
	u.r.CaptivePortal = MaybeOf(verdict)
	u.mu.Unlock()
	if verdict {
		u.tell("a login page (captive portal) answers instead of %s", host)
	}
}

// askCaptive says whether somebody else answered; not ok when nobody did.
func (u *run) askCaptive(ctx context.Context, host string) (portal, ok bool) {
	transport := &http.Transport{DialContext: u.c.cfg.Dial, MaxResponseHeaderBytes: 1 << 16, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: noRedirect}
	challenge := "nt_" + hex.EncodeToString(random(8))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, "80")+"/generate_204", nil)
	if err != nil {
		return false, false
	}
	req.Header.Set("X-Tailscale-Challenge", challenge)
	resp, err := client.Do(req)
	if err != nil {
		u.c.cfg.Logger.Debug("netcheck: captive portal", "err", err)
		return false, false
	}
	resp.Body.Close()
	return resp.StatusCode != http.StatusNoContent || resp.Header.Get("X-Tailscale-Response") != "response "+challenge, true
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
func (u *run) ping(ctx context.Context, place int, url identity.RelayURL) {
	ctx, cancel := context.WithTimeout(ctx, echoTime)
	defer cancel()
	addrs, err := lookup(ctx, &u.c.cfg, url.Parsed().Hostname())
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
			if errors.Is(err, errEcho) || err == nil {
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
