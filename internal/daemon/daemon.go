package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/invites"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/metrics"
	"github.com/nodetun/nodetun/internal/proxies"
	"github.com/nodetun/nodetun/routing"
)

// Config says what node to run. StateDir and Socket are required.
type Config struct {
	Settings         config.Settings
	StateDir, Socket string
	// Peers are peers for this run, besides those of peers.toml.
	Peers []config.Peer
	// Version is shown and told to peers.
	Version string
	// Logger may be nil. Level, if not nil, follows log_level on SIGHUP.
	Logger *slog.Logger
	Level  *slog.LevelVar
	// KeyLog gets the TLS secrets of all connections, for debugging. Nil: nobody does.
	KeyLog io.Writer
	// Reload reads the settings again, for SIGHUP. Nil: they stay.
	Reload func() (config.Settings, error)
	// Ready is called once the tunnel is up, and TicketChanged when the ticket is
	// another one after that. Nil: nobody is told.
	Ready         func(localapi.Status, localapi.Ticket)
	TicketChanged func(localapi.Ticket)
}

// Daemon is a running node.
type Daemon struct {
	cfg   Config
	log   *slog.Logger
	began time.Time
	undo  undoList
	stop  context.CancelFunc
	hup   chan os.Signal

	key      *identity.SecretKey
	salt     []byte
	store    *store
	files    *config.AddressFile
	pool     netip.Prefix
	listener *net.UnixListener

	endpoint *endpoint.Endpoint
	table    *routing.Table
	names    *dnsmap.Names
	link     *link
	host     *routing.Host
	resolver *resolver
	finder   *finder
	proxies  *proxies.Proxies
	// engine is made last; until then the endpoint admits nobody.
	engine  *engine.Engine
	admits  atomic.Pointer[engine.Engine]
	metrics net.Listener // nil: none
	// changed wakes the saver of addresses, hostChanged the check of the tunnel.
	changed, hostChanged chan struct{}
	// signed is the timestamp of the newest packet that this node published.
	signed atomic.Uint64
	// ticketKick says that the ticket may be another one.
	ticketKick chan struct{}
	invites    *invites.Book
	guests     *guests
	// grantsKick says that permissions may end at another time.
	grantsKick chan struct{}

	selfCheck   sync.Mutex // held during a check of the tunnel, guards selfChecked
	selfChecked time.Time  // when the last one ended

	// What setting up the host found; it stays as it is.
	poolFail error

	// change makes changes of the list of peers one at a time, from the file to
	// the engine, so that none is undone by an older one (S16). Taken before mu.
	change sync.Mutex

	troubles troubles

	// mu guards the fields below.
	mu sync.Mutex
	// peers are those in force, those of this run among them.
	peers      []config.Peer
	extra      []config.Peer
	peerHealth []localapi.Health
	good       config.Addresses

	saving sync.Mutex // held while addresses.json is written; taken before mu
}

// ErrPrivilege says that the process may not make network interfaces.
var ErrPrivilege = errors.New("needs root or CAP_NET_ADMIN (try: sudo nodetun up)")

// Run runs a node until ctx ends, somebody asks it to end, or it breaks. Every
// change of the host is undone before it returns. The error wraps
// ErrPrivilege, localapi.ErrRunning, config.ErrLocked, config.ErrBadFile or the
// errors of the packages that the node is made of.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{cfg: cfg, proxies: proxies.New(cfg.Settings.Proxy), log: cfg.Logger, began: time.Now(), extra: slices.Clone(cfg.Peers), changed: make(chan struct{}, 1), hostChanged: make(chan struct{}, 1), ticketKick: make(chan struct{}, 1), grantsKick: make(chan struct{}, 1), hup: make(chan os.Signal, 1)}
	// From the start: a SIGHUP that nobody waits for ends the process.
	signal.Notify(d.hup, syscall.SIGHUP)
	defer signal.Stop(d.hup)
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	defer func() { err = errors.Join(err, d.undo.run()) }()
	for _, step := range []func(context.Context) error{
		d.checkPrivilege,
		d.openState,
		d.openControl,
		d.cleanLeftovers,
		d.readFiles,
		d.openInvites,
		d.openTable,
		d.openDiscovery,
		d.openEndpoint,
		d.openNames,
		d.openLink,
		d.setAddresses,
		d.setUpNames,
		d.openEngine,
		d.openMetrics,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.serve(ctx)
}

// undoList is what has to be undone, in reverse.
type undoList []func() error

func (u *undoList) add(f func() error) { *u = append(*u, f) }

// run undoes everything and reports all that went wrong.
func (u *undoList) run() error {
	var errs []error
	for _, f := range slices.Backward(*u) {
		errs = append(errs, f())
	}
	*u = nil
	return errors.Join(errs...)
}

// serve runs all parts until ctx ends or one of them fails.
func (d *Daemon) serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// The underlay outlives the engine, which says goodbye over it.
	underlay, closeUnderlay := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return d.endpoint.Run(underlay) })
	group.Go(func() error {
		defer closeUnderlay()
		return d.engine.Run(ctx)
	})
	group.Go(func() error { return d.host.Run(ctx) })
	group.Go(func() error { return d.resolver.Run(ctx) })
	if d.metrics != nil {
		group.Go(func() error {
			return metrics.Serve(ctx, d.metrics, metrics.Options{Gather: d.gather, Profiles: d.cfg.Settings.MetricsProfiles})
		})
	}
	group.Go(func() error { return d.saveAddresses(ctx) })
	group.Go(func() error { return d.watchTunnel(ctx) })
	group.Go(func() error { return d.publish(ctx) })
	group.Go(func() error { return d.endGrants(ctx) })
	group.Go(func() error { return d.reloadOnSignal(ctx) })

	d.change.Lock()
	d.applyPeers(d.peers)
	d.change.Unlock()
	d.answerControl(ctx)
	if d.cfg.Ready != nil {
		d.awaitAddress(ctx)
		status, _ := d.Status(ctx)
		ticket, _ := d.Ticket(ctx)
		d.cfg.Ready(status, ticket)
		group.Go(func() error { return d.watchTicket(ctx, ticket) })
	}
	return group.Wait()
}

// addressWait is how long a start waits for the first address of this host: a link
// that has just come up has none for a moment.
const addressWait = 2 * time.Second

func (d *Daemon) awaitAddress(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, addressWait)
	defer cancel()
	_, _ = d.endpoint.Socket().WaitDirectAddrs(ctx) // without one it starts as well
}

// watchTicket tells of tickets other than the last one that was told.
func (d *Daemon) watchTicket(ctx context.Context, told localapi.Ticket) error {
	for d.cfg.TicketChanged != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ticketKick:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(saveDelay):
		}
		if now, _ := d.Ticket(ctx); now.Ticket != told.Ticket {
			told = now
			d.cfg.TicketChanged(now)
		}
	}
	return nil
}

// answerControl begins to answer on the control socket. It goes on until the
// host is as it was: `down` waits for the socket to be gone.
func (d *Daemon) answerControl(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- d.keepAnswering(ctx) }()
	end := func() error { cancel(); return <-done }
	// Ended by what removes the socket, the first step of all.
	d.undo[controlStep] = func() error { return errors.Join(localapi.Remove(d.cfg.Socket), end()) }
}

// socketCheck is how often the node looks whether its control socket is still there.
const socketCheck = time.Minute

// keepAnswering answers on the control socket until ctx ends, and makes it again when
// somebody removed it.
func (d *Daemon) keepAnswering(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	answer := func(listener *net.UnixListener) {
		group.Go(func() error {
			err := localapi.NewServer(localapi.ServerConfig{Backend: d, GroupMayTrust: d.cfg.Settings.GroupMayTrust, Logger: d.log}).Run(ctx, listener)
			if err != nil {
				d.log.Error("the control socket broke", "err", err)
				d.stop()
			}
			return err
		})
	}
	answer(d.listener)
	group.Go(func() error {
		tick := time.NewTicker(socketCheck)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			if _, err := os.Lstat(d.cfg.Socket); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			listener, err := localapi.Listen(d.cfg.Socket)
			if err != nil {
				d.log.Warn("the control socket is gone and cannot be made again", "err", err)
				continue
			}
			d.log.Info("the control socket was gone and is there again")
			answer(listener)
		}
	})
	return group.Wait()
}

// reloadOnSignal reads files again at each SIGHUP.
func (d *Daemon) reloadOnSignal(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.hup:
			if err := d.Reload(ctx); err != nil {
				d.log.Error("not reloaded, all stays as it was", "err", err)
			}
		}
	}
}
