package portmap

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/natpmp"
	"github.com/nodetun/nodetun/magicsock/portmap/pcp"
)

// pcpMethod is PCP.
type pcpMethod struct {
	c     *Client
	gw    Gateway
	epoch *epoch
}

// nonce is the same for a router, our address and port as long as the secret is.
func (p *pcpMethod) nonce(internal uint16) pcp.Nonce {
	mac := hmac.New(sha256.New, p.c.cfg.Secret)
	mac.Write([]byte("nodetun pcp nonce"))
	mac.Write(p.gw.Addr.AsSlice())
	mac.Write(p.gw.Self.AsSlice())
	mac.Write(binary.BigEndian.AppendUint16(nil, internal))
	return pcp.Nonce(mac.Sum(nil)[:12])
}

// ask sends a question and returns its answer.
func (p *pcpMethod) ask(ctx context.Context, r pcp.Request) (pcp.Answer, error) {
	var got pcp.Answer
	var wrong error
	r.Client = p.gw.Self
	err := p.c.exchange(ctx, p.gw, natpmp.ServerPort, pcp.AppendRequest(nil, r), func(b []byte) bool {
		a, err := pcp.ParseAnswer(b)
		switch {
		case errors.Is(err, pcp.ErrVersion):
			wrong = errNotSpoken
			return true
		case err != nil || a.Op != r.Op:
			return false
		case a.Result == pcp.UnsupportedVersion:
			wrong = errNotSpoken
			return true
		case a.Map.Nonce != r.Map.Nonce || a.Map.Internal != r.Map.Internal: // refusals repeat them too
			return false
		}
		got = a
		return true
	})
	if err == nil {
		err = wrong
	}
	if err == nil {
		p.epoch.update(got.Epoch, time.Now())
	}
	return got, err
}

func (p *pcpMethod) find(ctx context.Context) error {
	a, err := p.ask(ctx, pcp.Request{Op: pcp.OpAnnounce})
	if err != nil || a.Result == pcp.Success || a.Result == pcp.UnsupportedOpcode {
		return err
	}
	return &refusal{reason: a.Result}
}

func (p *pcpMethod) request(ctx context.Context, want ask) (lease, error) {
	m := pcp.Map{Nonce: p.nonce(want.internal), Internal: want.internal, External: want.external}
	a, err := p.ask(ctx, pcp.Request{Op: pcp.OpMap, Lifetime: askLifetime, Map: m})
	if err != nil {
		return lease{}, err
	}
	if a.Result != pcp.Success {
		return lease{}, &refusal{reason: a.Result, again: a.Lifetime}
	}
	return lease{internal: want.internal, external: a.Map.External, lifetime: a.Lifetime}.checked()
}

func (p *pcpMethod) verify(ctx context.Context, _ lease) error {
	_, err := p.ask(ctx, pcp.Request{Op: pcp.OpAnnounce})
	return err
}

func (p *pcpMethod) release(ctx context.Context, l lease) error {
	m := pcp.Map{Nonce: p.nonce(l.internal), Internal: l.internal, External: l.external}
	a, err := p.ask(ctx, pcp.Request{Op: pcp.OpMap, Map: m})
	if err == nil && a.Result != pcp.Success {
		err = &refusal{reason: a.Result}
	}
	return err
}

// hear takes announcements of a restart (RFC 6887 14.1).
func (p *pcpMethod) hear(ctx context.Context, _ lease) {
	p.c.hear(ctx, p.gw, natpmp.AllHosts(), func(b []byte, port uint16) {
		a, err := pcp.ParseAnswer(b)
		if err != nil || port != natpmp.ServerPort || a.Op != pcp.OpAnnounce {
			return
		}
		p.epoch.update(a.Epoch, time.Now())
	})
}
