package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/routing"
	"github.com/nodetun/nodetun/tun"
)

// openTable numbers this node and its peers.
func (d *Daemon) openTable(context.Context) error {
	taken, err := routing.HostNetworks(d.cfg.Settings.TUN)
	if err != nil {
		return fmt.Errorf("list the networks of this host: %w", err)
	}
	if d.cfg.Settings.IPv4Pool == "" {
		for _, c := range d.contacts() {
			taken.Used = append(taken.Used, netip.PrefixFrom(c.addr, c.addr.BitLen()))
		}
	}
	d.pool, err = choosePool(d.cfg.Settings.IPv4Pool, d.good.Pool, taken)
	if err != nil && d.cfg.Settings.IPv4Pool != "" {
		return err
	}
	d.poolFail = err // without IPv4 then; status says so
	saved := d.good.IPv4
	if d.good.Pool != d.pool {
		saved = nil
	}
	d.table = routing.NewTable(d.key.NodeID(), d.pool, saved)
	d.store.filter.TUN = d.prefixes()
	return nil
}

// choosePool finds the IPv4 pool: what is set, else the one of the last run if
// it is still free, so that no peer is numbered anew, else any free one.
func choosePool(set string, last netip.Prefix, taken routing.Networks) (netip.Prefix, error) {
	if set == "" && last.IsValid() {
		if pool, err := routing.ChoosePool(last.String(), taken); err == nil {
			return pool, nil
		}
	}
	return routing.ChoosePool(set, taken)
}

// prefixes are the overlay's.
func (d *Daemon) prefixes() []netip.Prefix {
	list := []netip.Prefix{routing.Prefix6()}
	if d.pool.IsValid() {
		list = append(list, d.pool)
	}
	return list
}

// openNames makes the table of names with this node's own.
func (d *Daemon) openNames(context.Context) (err error) {
	host, _ := os.Hostname()
	d.names, err = dnsmap.NewNames(dnsmap.NamesConfig{
		Zone: d.cfg.Settings.Zone, Self: d.key.NodeID(), SelfName: ownName(d.cfg.Settings.Name), HostName: host,
	})
	return err
}

// openLink makes the TUN.
func (d *Daemon) openLink(context.Context) (err error) {
	d.link, err = openLink(tun.Config{Name: d.cfg.Settings.TUN, MTU: d.mtu(), Logger: d.log}, d.log)
	if errors.Is(err, tun.ErrPermission) {
		return fmt.Errorf("%w: %w", ErrPrivilege, err)
	}
	if err != nil {
		return err
	}
	d.undo.add(d.link.Close)
	return nil
}

// setAddresses gives the link its addresses and routes.
func (d *Daemon) setAddresses(context.Context) (err error) {
	d.host, err = routing.NewHost(routing.HostConfig{
		Link: d.link.Name(), Addrs: d.addrs(), Routes: d.prefixes(), MTU: d.mtu(),
		OnChange: func() {
			select {
			case d.hostChanged <- struct{}{}:
			default:
			}
		}, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.undo.add(d.host.Undo)
	return d.host.Apply()
}

// addrs are this node's overlay addresses as the link gets them.
func (d *Daemon) addrs() []netip.Prefix {
	self := d.table.Self()
	list := []netip.Prefix{netip.PrefixFrom(self.V6, 128)}
	if self.V4.IsValid() {
		list = append(list, netip.PrefixFrom(self.V4, 32))
	}
	return list
}

// setUpNames starts to listen for questions and tells the host's resolver.
func (d *Daemon) setUpNames(ctx context.Context) (err error) {
	if d.resolver, err = newResolver(d); err != nil {
		return err
	}
	d.undo.add(d.resolver.undo)
	return d.resolver.setUp(ctx)
}

// lookup is the resolver's way to addresses: peers have theirs, any other
// NodeID gets some on demand (S19).
func (d *Daemon) lookup(id identity.NodeID, create bool) (v6, v4 netip.Addr, ok bool) {
	v6, v4, ok = d.addressesOf(id, create)
	if !d.host.IPv6() {
		v6 = netip.Addr{} // nothing could use it
	}
	return v6, v4, ok
}

func (d *Daemon) addressesOf(id identity.NodeID, create bool) (v6, v4 netip.Addr, ok bool) {
	if entry, known := d.table.Entry(id); known {
		return entry.V6, entry.V4, true
	}
	switch {
	case d.cfg.Settings.OnDemand == "off":
		return netip.Addr{}, netip.Addr{}, false
	case !create:
		return routing.OverlayV6(id), netip.Addr{}, true
	}
	entry, err := d.table.AddOnDemand(id, time.Now())
	return entry.V6, entry.V4, err == nil
}
