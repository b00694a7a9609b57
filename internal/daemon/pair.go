package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/mdns"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/pairing"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

const (
	// pairWait is how long a node waits for the one that is told its code, pairFind how
	// long that looks for it, and pairTalk how long owners may take to compare.
	pairWait = 5 * time.Minute
	pairFind = 30 * time.Second
	pairTalk = 2 * time.Minute
	// pairAgain is the time between two tries to reach the other, and between two looks
	// whether the meeting place is somewhere else.
	pairAgain = 500 * time.Millisecond
	// pairHello is how long the other may take for its hellos: a stranger who guessed the
	// code keeps nobody waiting.
	pairHello  = 10 * time.Second
	pairLinger = 3 * time.Second
)

// Pair implements localapi.Backend: the two meet on an endpoint of their own, and what is
// agreed there is an invite, which is then used as any other.
func (d *Daemon) Pair(ctx context.Context, r localapi.PairRequest, progress func(string), ask func(localapi.PairQuestion) bool) (localapi.JoinResult, error) {
	if progress == nil {
		progress = func(string) {}
	}
	code, waits := pairing.NewCode(), r.Code == ""
	if !waits {
		var err error
		if code, err = pairing.ParseCode(r.Code); err != nil {
			return localapi.JoinResult{}, localapi.Wrap(localapi.KindBadRequest, err)
		}
	}
	if _, err := rulesOf(r.Allow); err != nil {
		return localapi.JoinResult{}, err
	}
	meeting, err := d.newMeeting(code, waits)
	if err != nil {
		return localapi.JoinResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, pairWait+pairTalk)
	defer cancel()
	ended := make(chan error, 1)
	run, stop := context.WithCancel(ctx)
	go func() { ended <- meeting.run(run) }()
	defer func() {
		stop()
		<-ended
	}()
	meeting.ask = func(name, check string) bool {
		return ask(localapi.PairQuestion{Name: identity.Clean(name, 63), Check: check})
	}
	if waits {
		progress(fmt.Sprintf("on the other machine: sudo nodetun pair %s", code))
		return d.pairAsWaiter(ctx, meeting, r)
	}
	progress("looking for the machine that shows " + code.String())
	return d.pairAsCaller(ctx, meeting, r, progress)
}

// pairAsWaiter takes the first that comes, and invites it.
func (d *Daemon) pairAsWaiter(ctx context.Context, m *meeting, r localapi.PairRequest) (localapi.JoinResult, error) {
	stream, err := m.accept(ctx)
	if err != nil {
		return localapi.JoinResult{}, err
	}
	if err := m.agree(ctx, stream, pairing.Answer); err != nil {
		return localapi.JoinResult{}, err
	}
	before := d.entries()
	invite, err := d.Invite(ctx, localapi.InviteRequest{Name: r.Name, Allow: r.Allow, ForS: int64(joinTime / time.Second)})
	offer := pairing.Offer{Invite: invite.Invite}
	if err != nil {
		offer.Error = oneLine(err)
	}
	if err := errors.Join(err, pairing.Send(stream, offer)); err != nil {
		return localapi.JoinResult{}, err
	}
	outcome, err := pairing.Receive[pairing.Outcome](stream)
	switch {
	case err != nil:
		return localapi.JoinResult{}, brokeOff(err)
	case outcome.Error != "":
		return localapi.JoinResult{}, localapi.Wrap(localapi.KindConflict, errors.New("the other side could not join: "+identity.Clean(outcome.Error, 200)))
	}
	entries, err := d.Peers(ctx)
	if err != nil {
		return localapi.JoinResult{}, err
	}
	for _, e := range entries {
		if e.ID.String() == outcome.ID {
			_, known := before[e.ID]
			return localapi.JoinResult{Peer: e, Added: !known}, nil
		}
	}
	return localapi.JoinResult{}, localapi.Wrap(localapi.KindConflict, fmt.Errorf("%w: it says that it joined, and did not", pairing.ErrProtocol))
}

// pairAsCaller finds the one that waits, and uses its invite.
func (d *Daemon) pairAsCaller(ctx context.Context, m *meeting, r localapi.PairRequest, progress func(string)) (localapi.JoinResult, error) {
	stream, err := m.dial(ctx)
	if err != nil {
		return localapi.JoinResult{}, err
	}
	if err := m.agree(ctx, stream, pairing.Call); err != nil {
		return localapi.JoinResult{}, err
	}
	offer, err := pairing.Receive[pairing.Offer](stream)
	if err != nil {
		return localapi.JoinResult{}, brokeOff(err)
	}
	if offer.Error != "" {
		return localapi.JoinResult{}, localapi.Wrap(localapi.KindConflict, errors.New("the other side: "+identity.Clean(offer.Error, 200)))
	}
	result, err := d.Join(ctx, localapi.JoinRequest{Invite: offer.Invite, Name: r.Name, Allow: r.Allow}, progress)
	outcome := pairing.Outcome{ID: d.key.NodeID().String()}
	if err != nil {
		outcome.Error = oneLine(err)
	}
	_ = pairing.Send(stream, outcome) // it is in the list there all the same
	m.linger(ctx)
	return result, err
}

// brokeOff words the end of a stream.
func brokeOff(err error) error {
	if errors.Is(err, pairing.ErrProtocol) || errors.Is(err, context.Canceled) {
		return err
	}
	return localapi.Wrap(localapi.KindUnreachable, errors.New("the other side broke off, or its owner said no"))
}

// meeting is the endpoint on which two nodes meet, with a key that is used for that alone.
type meeting struct {
	d        *Daemon
	at       identity.NodeID // of the one that waits
	key      *identity.SecretKey
	finder   *finder
	endpoint *endpoint.Endpoint
	conn     *endpoint.Connection // once they met
	ask      func(name, check string) bool
}

func (d *Daemon) newMeeting(code pairing.Code, waits bool) (*meeting, error) {
	key, err := code.Key()
	if err != nil {
		return nil, err
	}
	m := &meeting{d: d, at: key.NodeID(), key: key}
	if !waits {
		m.key = identity.GenerateSecretKey()
	}
	s := d.cfg.Settings
	s.Port, s.Portmap, s.DHT, s.Bind = 0, false, false, nil
	m.finder = newFinder(&s, underlayDialer(&s, d.log), d.proxies, d.prefixes(), func(identity.NodeID) (identity.NodeAddr, bool) { return identity.NodeAddr{}, false })
	if s.MDNS {
		local, err := mdns.New(mdns.Config{
			ID: m.key.NodeID(), Skip: func(link string) bool { return link == s.TUN }, Control: udpconn.MarkControl(s.Fwmark, d.log), Logger: d.log,
		})
		if err == nil {
			m.finder.local = local
			m.finder.sources = append(m.finder.sources, source{name: mdns.Source, resolver: local})
		}
	}
	if waits && m.finder.client.URL != "" {
		m.finder.publishers = []*pkarr.Publisher{pkarr.NewPublisher(m.finder.client, pkarr.Republish, pkarr.NewSigner(m.key, 0, nil), d.log)}
	}
	socket := socketConfig(&s)
	socket.Key, socket.Logger, socket.TunPrefixes = m.key, slog.New(slog.DiscardHandler), d.prefixes()
	m.endpoint, err = endpoint.New(endpoint.Config{ALPNs: []string{pairing.ALPN}, Socket: socket, Resolver: m.finder.resolvers()})
	if err != nil {
		m.finder.close()
		return nil, err
	}
	return m, nil
}

// run carries packets, and says where the one that waits is, until ctx ends.
func (m *meeting) run(ctx context.Context) error {
	defer m.finder.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.endpoint.Run(ctx) })
	if m.finder.local != nil {
		defer m.finder.local.Close()
		group.Go(func() error { return m.finder.local.Run(ctx) })
	}
	for _, p := range m.finder.publishers {
		group.Go(func() error { return p.Run(ctx) })
	}
	group.Go(func() error {
		var last []string
		for ; m.key.NodeID() == m.at && ctx.Err() == nil; pause(ctx, pairAgain) {
			addr := m.endpoint.NodeAddr()
			says := discovery.Records(addr)
			if addr.IsEmpty() || slices.Equal(says, last) {
				continue
			}
			last = says
			if m.finder.local != nil {
				m.finder.local.Publish(addr)
			}
			addr.Direct = nil
			for _, p := range m.finder.publishers {
				p.Publish(addr)
			}
		}
		return nil
	})
	return group.Wait()
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// accept waits for the first that dials and opens a stream.
func (m *meeting) accept(ctx context.Context) (*endpoint.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, pairWait)
	defer cancel()
	for {
		conn, err := m.endpoint.Accept(ctx)
		if err != nil {
			return nil, localapi.Wrap(localapi.KindUnreachable, fmt.Errorf("nobody typed the code within %v", pairWait))
		}
		hello, cancelHello := context.WithTimeout(ctx, pairHello)
		stream, err := conn.AcceptStream(hello)
		cancelHello()
		if err == nil {
			m.conn = conn
			return stream, nil
		}
		conn.Close(0, "")
	}
}

// dial looks for the one that waits until it is found.
func (m *meeting) dial(ctx context.Context) (*endpoint.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, pairFind)
	defer cancel()
	for ; ctx.Err() == nil; pause(ctx, pairAgain) {
		try, cancelTry := context.WithTimeout(ctx, 5*time.Second)
		conn, err := m.endpoint.Connect(try, identity.NodeAddr{ID: m.at}, pairing.ALPN)
		cancelTry()
		if err != nil {
			continue
		}
		stream, err := conn.OpenStream(ctx)
		if err == nil {
			m.conn = conn
			return stream, nil
		}
		conn.Close(0, "")
	}
	return nil, localapi.Wrap(localapi.KindUnreachable, errors.New("no machine with that code was found: it has to be on this network, or use the same relay or discovery server, and still wait"))
}

// linger waits until the other side has ended the meeting: it has then read what was sent
// last.
func (m *meeting) linger(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pairLinger)
	defer cancel()
	select {
	case <-ctx.Done():
	case <-m.conn.Context().Done():
	}
}

// agree exchanges hellos and has both owners compare.
func (m *meeting) agree(ctx context.Context, stream *endpoint.Stream, hello func(rw io.ReadWriter, channel []byte, name string) (their, check string, err error)) error {
	channel, err := m.conn.ExportKeyingMaterial(pairing.ChannelLabel, nil, 32)
	if err != nil {
		return err
	}
	_ = stream.SetDeadline(time.Now().Add(pairHello))
	their, check, err := hello(stream, channel, ownName(m.d.cfg.Settings.Name))
	if err != nil {
		return brokeOff(err)
	}
	_ = stream.SetDeadline(time.Now().Add(pairTalk))
	same := m.ask(their, check)
	switch err := pairing.Agree(stream, same); {
	case !same:
		m.linger(ctx)
		return localapi.Wrap(localapi.KindDenied, errors.New("nothing was added: the check was another one there"))
	case errors.Is(err, pairing.ErrOtherSaysNo):
		return localapi.Wrap(localapi.KindDenied, errors.New("nothing was added: the other side said no"))
	case err != nil:
		return brokeOff(err)
	}
	return nil
}
