package daemon

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/tun"
)

// link is the TUN as the engine sees it. When somebody removes the interface it
// is made anew; routing.Host then gives it its addresses back.
type link struct {
	cfg  tun.Config
	log  *slog.Logger
	done chan struct{}

	mu     sync.RWMutex
	device *tun.Device
	closed bool
}

// reopenEvery is how often a link that is gone is tried to be made again.
const reopenEvery = 200 * time.Millisecond

func openLink(cfg tun.Config, log *slog.Logger) (*link, error) {
	device, err := tun.Open(cfg)
	if err != nil {
		return nil, err
	}
	return &link{cfg: cfg, log: log, device: device, done: make(chan struct{})}, nil
}

func (l *link) current() *tun.Device {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.device
}

// Name is the name of the interface.
func (l *link) Name() string { return l.current().Name() }

// Read implements engine.Link.
func (l *link) Read(buf []byte) (vnet.Header, []byte, error) {
	for {
		h, ip, err := l.current().Read(buf)
		if !errors.Is(err, tun.ErrRemoved) {
			return h, ip, err
		}
		if err := l.reopen(); err != nil {
			return vnet.Header{}, nil, err
		}
	}
}

// Write implements engine.Link. While the link is gone packets are lost.
func (l *link) Write(h vnet.Header, parts ...[]byte) error { return l.current().Write(h, parts...) }

// Close implements engine.Link; it may be called again.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.done)
	return l.device.Close()
}

// reopen makes the interface anew, however long that takes.
func (l *link) reopen() error {
	l.log.Warn("the network interface was removed; it is made anew", "link", l.cfg.Name)
	_ = l.current().Close() // it is gone already
	tick := time.NewTicker(reopenEvery)
	defer tick.Stop()
	for {
		device, err := tun.Open(l.cfg)
		if err == nil {
			return l.replace(device)
		}
		select {
		case <-l.done:
			return tun.ErrClosed
		case <-tick.C:
			l.log.Debug("the network interface cannot be made yet", "err", err)
		}
	}
}

// replace puts a new device in the place of the old one, unless Close came
// first.
func (l *link) replace(device *tun.Device) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(tun.ErrClosed, device.Close())
	}
	l.device = device
	return nil
}
