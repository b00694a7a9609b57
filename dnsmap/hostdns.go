package dnsmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// Mode is how the host's resolver learns of our server.
type Mode string

// The modes of HostDNS; the package comment says what they do.
const (
	ModeAuto           Mode = "auto"
	ModeResolved       Mode = "resolved"
	ModeFile           Mode = "file"
	ModeNone           Mode = "none"
	ModeNetworkManager Mode = "networkmanager" // not yet supported
	ModeResolvconf     Mode = "resolvconf"     // not yet supported
)

var (
	// ErrMode is wrapped for a mode that does not exist or is not written yet.
	ErrMode = errors.New("dns mode")
	// ErrManaged is wrapped in mode file when resolv.conf belongs to another
	// program that would overwrite it.
	ErrManaged = errors.New("resolv.conf is managed")
	// ErrPort is wrapped in mode file when the server does not listen on port 53, the
	// only one that resolv.conf can mean.
	ErrPort = errors.New("resolv.conf names port 53 only")
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
	case ModeAuto, ModeResolved, ModeFile, ModeNone:
		return m, nil
	case ModeNetworkManager, ModeResolvconf:
		return "", fmt.Errorf("%w %s is not yet supported (use auto, resolved, file or none)", ErrMode, m)
	default:
		return "", fmt.Errorf("%w %q is unknown (use auto, resolved, file or none)", ErrMode, s)
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
	// ResolvConf is the file to change in mode file and to look at in mode
	// auto; empty means /etc/resolv.conf.
	ResolvConf string
	// Managed allows mode file to change a resolv.conf that is a link into the
	// directory of a program such as systemd-resolved.
	Managed bool
	// Alone leaves no other server in resolv.conf in mode file: see Musl.
	Alone bool
	// StatePath keeps what was changed, for Restore after a crash; empty keeps
	// nothing.
	StatePath string
	// Bus is the address of the D-Bus system bus; empty means the usual one.
	Bus string
	// OnServers is called by Apply and Run, in mode file, with the servers
	// found in resolv.conf, at first and whenever they change. May be nil.
	OnServers func([]string)
	// Logger; nil discards.
	Logger *slog.Logger
}

// Report says what Apply did.
type Report struct {
	// Mode is what was set up: resolved, file or none.
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

	backend backend // nil in mode none and before Apply

	found []string // the servers that OnServers was told of last
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

// Apply sets the mode up. Asked for auto it never fails for want of a resolver
// that it knows: it then does nothing and says in the Report what can be done.
// Errors wrap ErrManaged or ErrNoResolved where they apply.
func (h *HostDNS) Apply(ctx context.Context) (Report, error) {
	if h.backend != nil {
		return Report{}, errors.New("dnsmap: Apply twice without Undo")
	}
	switch h.cfg.Mode {
	case ModeNone:
		return Report{Mode: ModeNone, Advice: h.advice()}, nil
	case ModeFile:
		return h.use(ctx, ModeFile, newResolvFile(h.cfg))
	case ModeResolved:
		return h.use(ctx, ModeResolved, newResolved(h.cfg))
	}
	if !pointsToResolved(h.cfg.ResolvConf) {
		report, err := h.use(ctx, ModeFile, newResolvFile(h.cfg))
		if errors.Is(err, ErrManaged) {
			h.cfg.Logger.Info("resolv.conf is left alone", "err", err)
			return Report{Mode: ModeNone, Advice: h.advice()}, nil
		}
		return report, err
	}
	report, err := h.use(ctx, ModeResolved, newResolved(h.cfg))
	if err != nil {
		h.cfg.Logger.Info("systemd-resolved not used", "err", err)
		return Report{Mode: ModeNone, Advice: h.advice()}, nil
	}
	return report, nil
}

// Would tells what Apply would set up, and changes nothing. Whether systemd-resolved answers
// is not tried.
func (h *HostDNS) Would() Mode {
	switch {
	case h.cfg.Mode != ModeAuto:
		return h.cfg.Mode
	case pointsToResolved(h.cfg.ResolvConf):
		return ModeResolved
	}
	if _, _, _, err := newResolvFile(h.cfg).look(); err != nil {
		return ModeNone
	}
	return ModeFile
}

func (h *HostDNS) advice() string {
	return fmt.Sprintf("names in %s do not resolve on this host by themselves: use --dns file, or make your resolver ask %s for %s",
		h.zone(), h.cfg.Server, h.zone())
}

func (h *HostDNS) zone() string { return h.cfg.Zone[:len(h.cfg.Zone)-1] }

// use applies a backend and keeps it. When that fails half-way it is undone.
func (h *HostDNS) use(ctx context.Context, mode Mode, b backend) (Report, error) {
	if _, err := b.apply(ctx); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return Report{}, errors.Join(err, b.undo(undo))
	}
	h.backend = b
	h.learn()
	return Report{Mode: mode}, nil
}

// learn passes on the servers that the host asked before, if they changed.
func (h *HostDNS) learn() {
	now := h.backend.servers()
	same := slices.Equal(now, h.found)
	h.found = now
	if !same && h.cfg.OnServers != nil {
		h.cfg.OnServers(slices.Clone(now))
	}
}

// Run puts the settings back when others take them away, until ctx ends, then
// returns nil. Apply must have succeeded; Undo comes after.
func (h *HostDNS) Run(ctx context.Context) error {
	if h.backend == nil {
		<-ctx.Done()
		return nil
	}
	defer h.backend.deafen()
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
		changed, err := h.backend.apply(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failed:
			h.cfg.Logger.Warn("dns settings cannot be kept", "err", err)
		case err == nil && changed:
			h.cfg.Logger.Info("dns settings put back")
		}
		failed = err != nil
		h.learn()
	}
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
