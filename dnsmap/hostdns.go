package dnsmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Mode is how the host's resolver learns of our server.
type Mode string

// The modes of HostDNS; the package comment says what they do.
const (
	ModeAuto           Mode = "auto"
	ModeResolved       Mode = "resolved"
	ModeNetworkManager Mode = "networkmanager"
	ModeResolvconf     Mode = "resolvconf"
	ModeFile           Mode = "file"
	ModeNone           Mode = "none"
)

var (
	// ErrMode is wrapped for a mode that does not exist or not on this host.
	ErrMode = errors.New("dns mode")
	// ErrManaged is wrapped when resolv.conf belongs to another program than the mode
	// is for.
	ErrManaged = errors.New("resolv.conf is managed")
	// ErrPort is wrapped in mode file when the server does not listen on port 53, the
	// only one that resolv.conf can mean.
	ErrPort = errors.New("resolv.conf names port 53 only")
	// ErrReadOnly is wrapped when resolv.conf cannot be changed even by root: it is
	// immutable (chattr +i), or its file system read-only.
	ErrReadOnly = errors.New("it is immutable or read-only")
	// ErrNoResolved is wrapped in mode resolved when systemd-resolved does not
	// run in this network namespace.
	ErrNoResolved = errors.New("systemd-resolved is not running")
)

const (
	// hostCheck is how often Run looks whether the settings are still there though
	// nobody told of a change, blindCheck the same where nobody would tell: with the
	// repair they are back within 2 s.
	hostCheck  = 30 * time.Second
	blindCheck = 1500 * time.Millisecond
	// settle is how long several changes in a row are taken for one.
	settle      = 200 * time.Millisecond
	undoTimeout = 5 * time.Second
)

// ParseMode reads the setting `dns`; empty means auto. Errors wrap ErrMode.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return ModeAuto, nil
	case ModeAuto, ModeResolved, ModeNetworkManager, ModeResolvconf, ModeFile, ModeNone:
		return m, nil
	default:
		return "", fmt.Errorf("%w %q is unknown (use auto, resolved, networkmanager, resolvconf, file or none)", ErrMode, s)
	}
}

// HostConfig says what the host's resolver has to know.
type HostConfig struct {
	// Mode; empty means auto.
	Mode Mode
	// Link is the interface of the overlay, for mode resolved.
	Link string
	// Zone is the domain of the names; empty means DefaultZone.
	Zone string
	// Search makes the zone a search domain too, so that `ssh nas` works.
	Search bool
	// Prefixes are the overlay prefixes, whose reverse names are ours too.
	Prefixes []netip.Prefix
	// Server is where our server listens.
	Server netip.AddrPort
	// ResolvConf is the file to look at, and to change in the modes that do; empty means
	// /etc/resolv.conf.
	ResolvConf string
	// Alone leaves no other server in resolv.conf: see Musl.
	Alone bool
	// StatePath keeps what was changed, for Restore after a crash; empty keeps
	// nothing.
	StatePath string
	// Bus is the address of the D-Bus system bus; empty means the usual one.
	Bus string
	// OnServers is called by Apply and Run with the servers found in resolv.conf, when ours
	// is first there, and whenever they change. May be nil.
	OnServers func([]string)
	// Logger; nil discards.
	Logger *slog.Logger
}

// Report says what is set up.
type Report struct {
	// Mode is never auto.
	Mode Mode
	// Advice tells the user what to do by hand; empty when names work.
	Advice string
}

// backend is one way to tell the host's resolver.
type backend interface {
	// apply sets it up, or does nothing when it is. changed says that
	// something had to be done.
	apply(ctx context.Context) (changed bool, err error)
	undo(ctx context.Context) error
	// listen returns what has a token when what apply set up may be gone; nil when
	// nothing tells. It is called again after each apply, until deafen.
	listen() <-chan struct{}
	deafen()
	// servers lists those that the host asked before.
	servers() []string
}

// hostResolvConf is where programs look for their servers.
const hostResolvConf = "/etc/resolv.conf"

// HostDNS makes the host's resolver ask our server.
type HostDNS struct {
	cfg HostConfig

	backend backend  // of the mode that is set up; nil before Apply
	found   []string // the servers that OnServers was told of last

	mu     sync.Mutex // guards report
	report Report
}

// NewHost checks the configuration; it changes nothing. Errors wrap ErrMode or
// ErrBadZone.
func NewHost(cfg HostConfig) (*HostDNS, error) {
	mode, err := ParseMode(string(cfg.Mode))
	if err != nil {
		return nil, err
	}
	cfg.Mode = mode
	if cfg.Zone, err = parseZone(cfg.Zone); err != nil {
		return nil, err
	}
	if mode != ModeNone && !cfg.Server.IsValid() {
		return nil, errors.New("dnsmap: no server address")
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = hostResolvConf
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Prefixes = slices.Clone(cfg.Prefixes)
	return &HostDNS{cfg: cfg}, nil
}

// Apply sets the mode up. Asked for auto it never fails for want of a resolver that it
// knows: the Report then says what can be done. Errors wrap ErrMode, ErrManaged, ErrPort,
// ErrReadOnly or ErrNoResolved where they apply.
func (h *HostDNS) Apply(ctx context.Context) (Report, error) {
	if h.backend != nil {
		return Report{}, errors.New("dnsmap: Apply twice without Undo")
	}
	if err := h.use(ctx, h.choose()); err != nil {
		return Report{}, err
	}
	h.learn()
	return h.Report(), nil
}

// Report says what is set up now: in mode auto that changes with the host.
func (h *HostDNS) Report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report
}

// Would tells what Apply would set up, and changes nothing. Whether systemd-resolved answers
// is not tried.
func (h *HostDNS) Would() Mode { return h.choose() }

// choose finds the mode for this host as it is.
func (h *HostDNS) choose() Mode {
	if h.cfg.Mode != ModeAuto {
		return h.cfg.Mode
	}
	path, content, existed, err := readResolvConf(h.cfg.ResolvConf)
	if err != nil {
		return ModeNone
	}
	content = stripBlocks(content)
	w := writerOf(path, content)
	switch {
	case asksResolved(content):
		return ModeResolved
	case w == nil:
		return ModeFile
	case !existed, w.mode == "", w.mode == ModeResolved: // not running yet; not known; its file without its stub
		return ModeNone
	}
	return w.mode
}

// use sets a mode up in place of what there is. When that fails half-way it is undone; mode
// auto then takes none, where the host is the reason.
func (h *HostDNS) use(ctx context.Context, mode Mode) error {
	if err := h.Undo(); err != nil {
		return err
	}
	b := h.make(mode)
	_, err := b.apply(ctx)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, b.undo(undo))
		if h.cfg.Mode != ModeAuto || !errors.Is(err, ErrNoResolved) && !errors.Is(err, ErrManaged) {
			return err
		}
		h.cfg.Logger.Debug("names are not set up by themselves", "err", err)
		b, mode = h.make(ModeNone), ModeNone
	}
	h.set(mode, b, err)
	return nil
}

// set notes what is in force, and why it is nothing.
func (h *HostDNS) set(mode Mode, b backend, err error) {
	h.backend = b
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report = Report{Mode: mode}
	if mode == ModeNone {
		h.report.Advice = h.advice(err)
	}
}

func (h *HostDNS) make(mode Mode) backend {
	switch mode {
	case ModeResolved:
		return newResolved(h.cfg)
	case ModeNone:
		return &idle{path: h.cfg.ResolvConf}
	default:
		return newResolvFile(h.cfg, mode)
	}
}

func (h *HostDNS) advice(err error) string {
	how := "use --dns file, or make your resolver ask"
	if errors.Is(err, ErrNoResolved) {
		how = "start systemd-resolved, which resolv.conf names, or make your resolver ask"
	}
	return fmt.Sprintf("names in %s do not resolve on this host by themselves: %s %s for %s", h.zone(), how, h.cfg.Server, h.zone())
}

func (h *HostDNS) zone() string { return h.cfg.Zone[:len(h.cfg.Zone)-1] }

// learn passes on the servers that the host asked before, if they changed.
func (h *HostDNS) learn() {
	now := h.backend.servers()
	same := slices.Equal(now, h.found)
	h.found = now
	if !same && h.cfg.OnServers != nil {
		h.cfg.OnServers(slices.Clone(now))
	}
}

// Run puts the settings back when others take them away, and in mode auto follows the host
// to another mode, until ctx ends, then returns nil. Apply must have succeeded; Undo comes
// after.
func (h *HostDNS) Run(ctx context.Context) error {
	if h.cfg.Mode == ModeNone {
		<-ctx.Done()
		return nil
	}
	defer func() { h.backend.deafen() }()
	// The first look comes soon: what changed before listen was told to nobody.
	for wait, failed := settle, false; ; {
		changes := h.backend.listen()
		if failed || changes == nil {
			wait = min(wait, blindCheck)
		}
		if !await(ctx, wait, changes) {
			return nil
		}
		wait = hostCheck
		err := h.keep(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failed:
			h.cfg.Logger.Warn("dns settings cannot be kept", "err", err)
		}
		failed = err != nil
	}
}

// keep sets up what is missing, or what the host needs now instead.
func (h *HostDNS) keep(ctx context.Context) error {
	was := h.Report().Mode
	if mode := h.choose(); mode != was {
		h.backend.deafen()
		if err := h.use(ctx, mode); err != nil {
			h.set(ModeNone, h.make(ModeNone), err)
			return err
		}
		if now := h.Report().Mode; now != was {
			h.cfg.Logger.Info("names are set up anew", "dns", now, "before", was)
		}
	} else if changed, err := h.backend.apply(ctx); err != nil {
		return err
	} else if changed {
		h.cfg.Logger.Info("dns settings put back")
	}
	h.learn()
	return nil
}

// await waits until it is time to look at the settings; false when ctx has ended.
func await(ctx context.Context, wait time.Duration, changes <-chan struct{}) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-changes:
	}
	timer.Reset(settle)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	}
	select { // what came meanwhile
	case <-changes:
	default:
	}
	return true
}

// Undo takes back what Apply and Run changed. Apply may be called again
// afterwards.
func (h *HostDNS) Undo() error {
	if h.backend == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	err := h.backend.undo(ctx)
	h.backend = nil
	return err
}

// idle is mode none: it only hears of another resolv.conf.
type idle struct {
	path  string
	watch *fileWatch
}

func (*idle) apply(context.Context) (bool, error) { return false, nil }
func (*idle) undo(context.Context) error          { return nil }
func (*idle) servers() []string                   { return nil }

func (i *idle) listen() <-chan struct{} {
	if i.watch = watchFile(i.watch, i.path); i.watch == nil {
		return nil
	}
	return i.watch.changed
}

func (i *idle) deafen() {
	i.watch.close()
	i.watch = nil
}
