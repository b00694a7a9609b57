package portmap

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/natpmp"
)

// natpmpMethod is NAT-PMP.
type natpmpMethod struct {
	c     *Client
	gw    Gateway
	epoch *epoch
}

// ask sends a question and returns its answer.
func (p *natpmpMethod) ask(ctx context.Context, question []byte, op uint8, internal uint16) (natpmp.Answer, error) {
	var got natpmp.Answer
	var wrong error
	err := p.c.exchange(ctx, p.gw, natpmp.ServerPort, question, func(b []byte) bool {
		a, err := natpmp.ParseAnswer(b)
		switch {
		case errors.Is(err, natpmp.ErrVersion):
			wrong = errNotSpoken
			return true
		case err != nil || a.Op != op:
			return false
		case op == natpmp.OpMapUDP && a.Result == natpmp.Success && a.Internal != internal:
			return false
		}
		got = a
		return true
	})
	if err == nil {
		err = wrong
	}
	if err == nil && got.Result == natpmp.UnsupportedVersion {
		err = errNotSpoken
	}
	if err == nil {
		p.epoch.update(got.Epoch, time.Now())
	}
	return got, err
}

// address asks for the external address.
func (p *natpmpMethod) address(ctx context.Context) (netip.Addr, error) {
	a, err := p.ask(ctx, natpmp.AppendAddressRequest(nil), natpmp.OpAddress, 0)
	if err == nil && a.Result != natpmp.Success {
		err = &refusal{reason: a.Result}
	}
	return a.Addr, err
}

// find takes a refusal for a yes: the router may have no address outside yet.
func (p *natpmpMethod) find(ctx context.Context) error {
	_, err := p.address(ctx)
	if no := (*refusal)(nil); errors.As(err, &no) {
		return nil
	}
	return err
}

func (p *natpmpMethod) request(ctx context.Context, want ask) (lease, error) {
	addr, err := p.address(ctx)
	if err != nil {
		return lease{}, err
	}
	question := natpmp.AppendMapRequest(nil, natpmp.MapRequest{
		Internal: want.internal, External: want.external.Port(), Lifetime: askLifetime,
	})
	a, err := p.ask(ctx, question, natpmp.OpMapUDP, want.internal)
	if err != nil {
		return lease{}, err
	}
	if a.Result != natpmp.Success {
		return lease{}, &refusal{reason: a.Result}
	}
	return lease{internal: want.internal, external: netip.AddrPortFrom(addr, a.External), lifetime: a.Lifetime}.checked()
}

func (p *natpmpMethod) verify(ctx context.Context, l lease) error {
	addr, err := p.address(ctx)
	if err == nil && addr != l.external.Addr() {
		return errForgot
	}
	return err
}

func (p *natpmpMethod) release(ctx context.Context, l lease) error {
	a, err := p.ask(ctx, natpmp.AppendMapRequest(nil, natpmp.MapRequest{Internal: l.internal}), natpmp.OpMapUDP, l.internal)
	if err == nil && a.Result != natpmp.Success {
		err = &refusal{reason: a.Result}
	}
	return err
}

// hear takes announcements of a restart or of another external address
// (RFC 6886 3.2.1).
func (p *natpmpMethod) hear(ctx context.Context, l lease) {
	p.c.hear(ctx, p.gw, natpmp.AllHosts(), func(b []byte, port uint16) {
		a, err := natpmp.ParseAnswer(b)
		if err != nil || port != natpmp.ServerPort || a.Op != natpmp.OpAddress || a.Result != natpmp.Success {
			return
		}
		p.epoch.update(a.Epoch, time.Now())
		if a.Addr != l.external.Addr() {
			p.epoch.lost()
		}
	})
}
