package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// Facts are told to each peer when a session comes up and when they change, at
// most once in factsGap.
const (
	factsGap      = time.Second
	factsTimeout  = 2 * time.Second // for the answer of a peer that is asked
	maxCandidates = 32
	maxPublic     = 8
)

// Features that a peer may announce, and what they mean below.
const (
	featureMTUProbe = "mtu-probe/1"
	featureCut      = "cut/1"
	featureFEC      = "fec/2"
)

// Why is all that explains the path to a peer.
type Why struct {
	// Info is what the socket knows of the peer.
	Info nodemap.RemoteInfo
	// Own is what this node tells the peer, Theirs what it tells us, nil for
	// nothing yet. Theirs.Candidates are our addresses as the peer sees them, nil
	// if it did not answer.
	Own    wire.Facts
	Theirs *wire.Facts
}

// Why asks the peer, if it is connected, and says what both sides know.
func (e *Engine) Why(ctx context.Context, id identity.NodeID) (Why, error) {
	p := e.peer(id)
	if p == nil {
		return Why{}, ErrUnknownPeer
	}
	w := Why{Own: e.factsFor(id)}
	w.Info, _ = e.cfg.Endpoint.Socket().Remote(id)
	w.Theirs = p.theirFacts()
	if s := p.current.Load(); s != nil {
		ctx, cancel := context.WithTimeout(ctx, factsTimeout)
		defer cancel()
		if theirs, err := s.askFacts(ctx); err == nil {
			w.Theirs = theirs
		}
	}
	return w, nil
}

// facts is what this node tells every peer about its network.
func (e *Engine) facts() wire.Facts {
	socket := e.cfg.Endpoint.Socket()
	info := socket.NetInfo()
	f := wire.Facts{NAT: wire.NAT{Mapping: info.NAT, Portmap: info.Portmap}}
	if r := info.Report; r != nil {
		f.NAT.V4, f.NAT.V6, f.NAT.UDP, f.NAT.Step = r.IPv4, r.IPv6, r.UDP, r.PortDelta
		for _, a := range []netip.AddrPort{r.GlobalV4, r.GlobalV6} {
			if a.IsValid() {
				f.NAT.Public = append(f.NAT.Public, a.String())
			}
		}
	}
	if home := socket.HomeRelay(); !home.IsZero() {
		f.Relay = home.String()
	}
	return f
}

// factsFor adds what this node knows of the way to one peer.
func (e *Engine) factsFor(id identity.NodeID) wire.Facts {
	f := e.facts()
	info, _ := e.cfg.Endpoint.Socket().Remote(id)
	for _, a := range info.Addrs[:min(len(info.Addrs), maxCandidates)] {
		kinds := make([]string, 0, len(a.Sources))
		for _, s := range a.Sources {
			kinds = append(kinds, string(s))
		}
		f.Candidates = append(f.Candidates, wire.Candidate{
			Addr: a.Addr.String(), Kind: strings.Join(kinds, " "), LastResult: a.Result, MTU: a.MTU,
			RTT: float64(a.Latency) / float64(time.Millisecond),
		})
	}
	return f
}

// NetInfoChanged tells that the facts may have changed. It does not wait.
func (e *Engine) NetInfoChanged() {
	select {
	case e.factsKick <- struct{}{}:
	default:
	}
}

// tellFacts sends changed facts to all that are connected until the engine's
// life ends.
func (e *Engine) tellFacts() {
	var last wire.Facts
	for {
		select {
		case <-e.life.Done():
			return
		case <-e.factsKick:
		}
		if now := e.facts(); !reflect.DeepEqual(now, last) {
			last = now
			for _, p := range e.sorted() {
				for _, s := range p.live() {
					s.send(wire.TypeFacts, now)
				}
			}
		}
		gap := time.NewTimer(factsGap)
		select {
		case <-e.life.Done():
			gap.Stop()
			return
		case <-gap.C:
		}
	}
}

// features are what this node announces.
func (e *Engine) features() []string {
	list := []string{"split/1", featureMTUProbe, featureCut}
	if !e.cfg.NoFEC {
		list = append(list, featureFEC)
	}
	return list
}

// learnFeatures tells the socket what the peer's hello said.
func (s *session) learnFeatures(features []string) {
	fec := s.coding != nil && slices.Contains(features, featureFEC)
	if fec {
		s.coding.Start()
	}
	s.peer.engine.cfg.Endpoint.Socket().SetPeerFeatures(s.peer.id, nodemap.Features{
		MTUProbe: slices.Contains(features, featureMTUProbe), Cut: slices.Contains(features, featureCut), FEC: fec,
	})
}

// codingLabel is that of the TLS exporter for the keys of package fec: of the packets of the
// dialler, then of those of the other side.
const codingLabel = "EXPORTER-nodetun-fec"

// expectCoding prepares for packets in the form of package fec. It comes before our hello: the
// peer codes from there on.
func (s *session) expectCoding() error {
	e := s.peer.engine
	if e.cfg.NoFEC {
		return nil
	}
	var keys [2]magicsock.CodingKey
	secret, err := s.conn.ExportKeyingMaterial(codingLabel, nil, len(keys)*len(keys[0]))
	if err != nil {
		return fmt.Errorf("keys of fec: %w", err)
	}
	copy(keys[0][:], secret)
	copy(keys[1][:], secret[len(keys[0]):])
	if s.dialler == s.peer.id {
		keys[0], keys[1] = keys[1], keys[0]
	}
	s.coding = e.cfg.Endpoint.Socket().Code(s.peer.id, keys[0], keys[1])
	context.AfterFunc(s.conn.Context(), s.coding.Close)
	return nil
}

// How often a session speeds up, and how long after repairs began: what was lost before has to
// have slowed QUIC down.
const (
	speedUpGap  = time.Minute
	speedUpWait = 250 * time.Millisecond
)

// speedUp has QUIC start anew when losses that are repaired from now on have slowed it down: it
// would take a round trip for each packet that its window is to be larger. ctx is that of
// the connection.
func (s *session) speedUp(ctx context.Context) {
	pause := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		}
	}
	for lost := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-s.coding.More():
		}
		if !pause(speedUpWait) {
			return
		}
		now := s.conn.Stats().PacketsLost
		if now == lost {
			continue
		}
		lost = now
		s.peer.engine.cfg.Endpoint.Socket().MeasureAnew(s.peer.id)
		if !pause(speedUpGap) {
			return
		}
	}
}

// takeFacts takes what the peer says about its network.
func (p *peer) takeFacts(body []byte) (*wire.Facts, error) {
	var f wire.Facts
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, err
	}
	cleanFacts(&f)
	nat := nodemap.NAT{Hard: f.NAT.Mapping == "hard", Step: f.NAT.Step}
	for _, text := range f.NAT.Public {
		if a, err := netip.ParseAddrPort(text); err == nil {
			nat.Public = append(nat.Public, a)
		}
	}
	p.mu.Lock()
	p.facts = &f
	p.mu.Unlock()
	p.engine.cfg.Endpoint.Socket().SetPeerNAT(p.id, nat)
	return &f, nil
}

// cleanFacts bounds what a peer said and makes it fit to be shown.
func cleanFacts(f *wire.Facts) {
	clean := func(s *string, n int) { *s = identity.Clean(*s, n) }
	clean(&f.NAT.Mapping, 16)
	clean(&f.NAT.Filtering, 16)
	clean(&f.NAT.Portmap, 16)
	clean(&f.Relay, 200)
	if f.NAT.Step < 0 || f.NAT.Step > 1<<10 {
		f.NAT.Step = 0
	}
	f.NAT.Public = f.NAT.Public[:min(len(f.NAT.Public), maxPublic)]
	for i := range f.NAT.Public {
		clean(&f.NAT.Public[i], 64)
	}
	f.Candidates = f.Candidates[:min(len(f.Candidates), maxCandidates)]
	for i := range f.Candidates {
		c := &f.Candidates[i]
		clean(&c.Addr, 64)
		clean(&c.Kind, 64)
		clean(&c.LastResult, 120)
	}
}

// theirFacts is what the peer last said, nil for nothing.
func (p *peer) theirFacts() *wire.Facts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.facts
}

// askFacts asks the peer what it knows of the way to us.
func (s *session) askFacts(ctx context.Context) (*wire.Facts, error) {
	body, err := s.ask(ctx, wire.TypeFacts)
	if err != nil {
		return nil, err
	}
	return s.peer.takeFacts(body)
}

// ask asks the peer for the message of a type.
func (s *session) ask(ctx context.Context, kind wire.MessageType) (body []byte, err error) {
	stream, err := s.conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.CancelRead(wire.CodeUnknownStream)
	_ = stream.SetDeadline(deadline(ctx))
	frame, err := wire.AppendMessage(wire.AppendKind(nil, wire.StreamRequest), kind, struct{}{})
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write(frame); err != nil {
		return nil, err
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	t, body, err := wire.ReadMessage(stream, wire.MaxMessage)
	if err != nil {
		return nil, err
	}
	if t != kind {
		return nil, fmt.Errorf("%w: message %d answers a request for %d", wire.ErrProtocol, t, kind)
	}
	return body, nil
}

// answerRequest returns the answer to one request, an error for a request that is
// not known.
func (s *session) answerRequest(t wire.MessageType, body []byte) (any, error) {
	switch t {
	case wire.TypePing:
		return json.RawMessage(body), nil
	case wire.TypeFacts:
		return s.peer.engine.factsFor(s.peer.id), nil
	case wire.TypeRules:
		return s.rulesFor(s.peer.access.Load()), nil
	}
	return nil, errors.New("no such request")
}
