//go:build linux

package routing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addrGenNone is IN6_ADDR_GEN_MODE_NONE: the kernel gives the link no
// link-local address, so that no router solicitation or MLD report goes in.
const addrGenNone = 1

// hostState is what Apply learned and Undo needs.
type hostState struct {
	nl     *netlink.Handle // nil before Apply; its sockets stay in the network namespace of Apply
	wasUp  bool
	guard  *guard         // nil where there is no packet filter
	addrs  []netip.Prefix // added by us
	routes []netip.Prefix // added by us
}

// Apply brings link, addresses and routes into shape once. A host without IPv6
// and a prefix that is attached elsewhere are Problems, not errors. Errors wrap
// ErrLinkGone or ErrPermission where they apply; what was done stays until
// Undo.
func (h *Host) Apply() error {
	if h.state.nl == nil {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("routing: open netlink: %w", err)
		}
		h.state.nl = nl
		if link, err := nl.LinkByName(h.cfg.Link); err == nil {
			h.state.wasUp = isUp(link)
			_ = nl.LinkSetIP6AddrGenMode(link, addrGenNone) // unknown to old kernels
		}
		if h.state.guard, err = newGuard(h.cfg.Link, h.cfg.Addrs); err != nil {
			h.cfg.Logger.Debug("no packet filter", "err", err)
		}
	}
	_, err := h.reconcile()
	return err
}

// Undo takes back what Apply and Run changed. A link that is gone took
// everything with it. Apply may be called again afterwards.
func (h *Host) Undo() error {
	if h.state.nl == nil {
		return nil
	}
	err := h.undo()
	if h.state.guard != nil {
		if removed := h.state.guard.remove(); removed != nil && !noFilter(removed) {
			err = errors.Join(err, fmt.Errorf("routing: undo the packet filter: %w", permission(removed)))
		}
		h.state.guard.close()
	}
	h.state.nl.Close()
	h.state = hostState{}
	h.setProblems(nil)
	return err
}

func (h *Host) undo() error {
	link, err := h.link()
	if errors.Is(err, ErrLinkGone) {
		return nil
	} else if err != nil {
		return err
	}
	var errs []error
	for _, p := range h.state.routes {
		errs = append(errs, gone(h.state.nl.RouteDel(h.route(link, p))))
	}
	for _, p := range h.state.addrs {
		errs = append(errs, gone(h.state.nl.AddrDel(link, address(p))))
	}
	if !h.state.wasUp {
		errs = append(errs, gone(h.state.nl.LinkSetDown(link)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("routing: undo: %w", permission(err))
	}
	return nil
}

// reconcile compares and repairs, and says what it put back.
func (h *Host) reconcile() (repaired []string, err error) {
	link, err := h.link()
	if err != nil {
		return nil, err
	}
	r := repair{Host: h, link: link}
	for _, step := range []func() error{r.mtu, r.up, r.guarded, r.addresses, r.routes} {
		if err := step(); err != nil {
			return r.done, permission(err)
		}
	}
	h.setProblems(r.problems)
	return r.done, nil
}

func (h *Host) link() (netlink.Link, error) {
	link, err := h.state.nl.LinkByName(h.cfg.Link)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("routing: %w: %s", ErrLinkGone, h.cfg.Link)
	} else if err != nil {
		return nil, fmt.Errorf("routing: link %s: %w", h.cfg.Link, permission(err))
	}
	return link, nil
}

// repair is one run of reconcile.
type repair struct {
	*Host
	link     netlink.Link
	done     []string
	problems []Problem
}

func (r *repair) note(format string, args ...any) {
	r.done = append(r.done, fmt.Sprintf(format, args...))
}

func (r *repair) mtu() error {
	if r.cfg.MTU == 0 || r.link.Attrs().MTU == r.cfg.MTU {
		return nil
	}
	if err := r.state.nl.LinkSetMTU(r.link, r.cfg.MTU); err != nil {
		return fmt.Errorf("routing: set mtu %d on %s: %w", r.cfg.MTU, r.cfg.Link, err)
	}
	r.note("mtu %d", r.cfg.MTU)
	return nil
}

func (r *repair) up() error {
	if isUp(r.link) {
		return nil
	}
	if err := r.state.nl.LinkSetUp(r.link); err != nil {
		return fmt.Errorf("routing: set %s up: %w", r.cfg.Link, err)
	}
	r.note("link up")
	return nil
}

// guarded keeps the overlay's addresses to the link, before it has them; but not a prefix
// in which, or around which, this host has another network.
func (r *repair) guarded() error {
	attached, err := r.attached()
	if err != nil {
		return err
	}
	overlay := slices.DeleteFunc(slices.Clone(r.cfg.Routes), func(p netip.Prefix) bool {
		return slices.ContainsFunc(attached, p.Overlaps)
	})
	changed := false
	err = unix.EPROTONOSUPPORT
	if r.state.guard != nil {
		changed, err = r.state.guard.ensure(overlay)
	}
	if changed && err == nil {
		r.note("packet filter")
	}
	if err != nil {
		r.problems = append(r.problems, Problem{
			Text: "machines on the networks of this host can reach its overlay addresses, and forge those of peers: the packet filter cannot be set (" + err.Error() + ")",
			Fix:  "sudo modprobe nf_tables",
		})
	}
	return nil
}

func (r *repair) addresses() error {
	have, err := r.state.nl.AddrList(r.link, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("routing: list addresses of %s: %w", r.cfg.Link, err)
	}
	for _, want := range r.cfg.Addrs {
		if r.withoutIPv6(want) || slices.ContainsFunc(have, func(a netlink.Addr) bool { return toPrefix(a.IPNet) == want }) {
			continue
		}
		if err := r.state.nl.AddrAdd(r.link, address(want)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("routing: add address %s to %s: %w", want, r.cfg.Link, err)
		}
		r.state.addrs = with(r.state.addrs, want)
		r.note("address %s", want)
	}
	return nil
}

// withoutIPv6 reports whether p needs IPv6 while it is off on the link.
func (r *repair) withoutIPv6(p netip.Prefix) bool {
	if p.Addr().Is4() || ipv6On(r.cfg.Link) {
		return false
	}
	problem := Problem{
		Text: "ipv6 is disabled on this host: only the ipv4 overlay works",
		Fix:  "sysctl -w net.ipv6.conf." + strings.ReplaceAll(r.cfg.Link, ".", "/") + ".disable_ipv6=0",
	}
	if !slices.Contains(r.problems, problem) {
		r.problems = append(r.problems, problem)
	}
	return true
}

func (r *repair) routes() error {
	attached, err := r.attached()
	if err != nil {
		return err
	}
	for _, want := range r.cfg.Routes {
		if r.withoutIPv6(want) {
			continue
		}
		if other, clash := shadowed(want, attached); clash {
			if err := gone(r.state.nl.RouteDel(r.route(r.link, want))); err != nil {
				return fmt.Errorf("routing: remove route %s: %w", want, err)
			}
			r.problems = append(r.problems, Problem{
				Text: fmt.Sprintf("the overlay prefix %s overlaps %s, a network this host is attached to: not routed into the overlay", want, other),
				Fix:  "set ipv4_pool to a free prefix and restart nodetun",
			})
			continue
		}
		if err := r.oneRoute(want); err != nil {
			return err
		}
	}
	return nil
}

// attached lists the prefixes of the addresses that other links have. Single
// addresses are no network.
func (r *repair) attached() ([]netip.Prefix, error) {
	addrs, err := r.state.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("routing: list addresses: %w", err)
	}
	var list []netip.Prefix
	for _, a := range addrs {
		if p := toPrefix(a.IPNet); a.LinkIndex != r.link.Attrs().Index && p.IsValid() && !p.IsSingleIP() {
			list = append(list, p.Masked())
		}
	}
	return list, nil
}

func (r *repair) oneRoute(want netip.Prefix) error {
	route := r.route(r.link, want)
	have, err := r.present(route)
	if err != nil {
		return err
	}
	if have != nil && (route.Src == nil || have.Src.Equal(route.Src)) {
		return nil
	}
	if have != nil { // the kernel drops the source from a route when its address is deleted
		if err := gone(r.state.nl.RouteDel(have)); err != nil {
			return fmt.Errorf("routing: renew route %s: %w", want, err)
		}
	}
	err = r.state.nl.RouteAdd(route)
	if errors.Is(err, unix.EEXIST) {
		r.problems = append(r.problems, Problem{
			Text: fmt.Sprintf("a route for the overlay prefix %s exists already and is not ours", want),
			Fix:  "stop the program that made it (ip route get tells its link), or set ipv4_pool to a free prefix",
		})
		return nil
	} else if err != nil {
		return fmt.Errorf("routing: add route %s: %w", want, err)
	}
	r.state.routes = with(r.state.routes, want)
	r.note("route %s", want)
	return nil
}

// present returns the route as the kernel has it, nil when it does not. It
// asks which route the first address of the prefix takes; only when that is
// another one does it list them all, which is long on a router.
func (r *repair) present(route *netlink.Route) (*netlink.Route, error) {
	match, err := r.state.nl.RouteGetWithOptions(route.Dst.IP, &netlink.RouteGetOptions{FIBMatch: true})
	if err == nil && len(match) == 1 && toPrefix(match[0].Dst) == toPrefix(route.Dst) &&
		match[0].LinkIndex == route.LinkIndex && match[0].Table == route.Table {
		return &match[0], nil
	}
	list, err := r.state.nl.RouteListFiltered(family(toPrefix(route.Dst)), route, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("routing: list routes of %s: %w", r.cfg.Link, err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	return &list[0], nil
}

// route builds the route of an overlay prefix through the link.
func (h *Host) route(link netlink.Link, p netip.Prefix) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       toIPNet(p),
		Table:     unix.RT_TABLE_MAIN,
		Protocol:  unix.RTPROT_STATIC,
		Scope:     netlink.SCOPE_UNIVERSE,
	}
	if p.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if src := h.source(p); src.IsValid() {
		r.Src = src.AsSlice()
	}
	return r
}

// Run puts back what others take away until ctx ends, then returns nil. Apply
// must have succeeded; Undo comes after.
func (h *Host) Run(ctx context.Context) error {
	if h.state.nl == nil {
		return errors.New("routing: Run before Apply")
	}
	w := newWatcher(h.cfg.Link, h.cfg.Routes)
	defer w.close()
	tick := time.NewTicker(selfCheck)
	defer tick.Stop()
	tell := func() {
		if h.cfg.OnChange != nil {
			h.cfg.OnChange()
		}
	}
	for {
		w.ensure() // the kernel closes nothing, but a lost announcement ends a watch
		h.check()
		checked := time.Now()
		for waits := true; waits; {
			select {
			case <-ctx.Done():
				return nil
			case <-w.filtered:
				tell()
				waits = false
			case <-tick.C:
				waits = false
			case <-w.changed:
				tell()
				waits = false
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(checked.Add(repairGap))): // most often at once
		}
	}
}

func (h *Host) check() {
	repaired, err := h.reconcile()
	if len(repaired) > 0 {
		h.cfg.Logger.Info("network settings put back", "link", h.cfg.Link, "what", strings.Join(repaired, ", "))
	}
	if err != nil {
		h.setProblems([]Problem{{Text: err.Error(), Fix: "restart nodetun"}})
	}
}

// HostNetworks lists what this host has to do with: the prefixes of its addresses
// and routes, in all tables but the local one, and its gateways, without those of
// the link named exclude. Default routes are not in it.
func HostNetworks(exclude string) (Networks, error) {
	skip := -1
	if link, err := netlink.LinkByName(exclude); exclude != "" && err == nil {
		skip = link.Attrs().Index
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Networks{}, fmt.Errorf("routing: list addresses: %w", err)
	}
	used, null := make(map[netip.Prefix]bool), make(map[netip.Prefix]bool) // a router has hundreds of thousands
	for _, a := range addrs {
		if p := toPrefix(a.IPNet); a.LinkIndex != skip && p.IsValid() {
			used[p.Masked()] = true
		}
	}
	err = netlink.RouteListFilteredIter(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		if r.LinkIndex == skip || r.Table == unix.RT_TABLE_LOCAL {
			return true
		}
		if gateway, ok := netip.AddrFromSlice(r.Gw); ok {
			gateway = gateway.Unmap()
			used[netip.PrefixFrom(gateway, gateway.BitLen())] = true
		}
		p := toPrefix(r.Dst)
		switch {
		case !p.IsValid() || p.Bits() == 0:
		case r.Type == unix.RTN_BLACKHOLE, r.Type == unix.RTN_UNREACHABLE, r.Type == unix.RTN_PROHIBIT:
			null[p.Masked()] = true
		default:
			used[p.Masked()] = true
		}
		return true
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Networks{}, fmt.Errorf("routing: list routes: %w", err)
	}
	return Networks{Used: slices.Collect(maps.Keys(used)), Null: slices.Collect(maps.Keys(null))}, nil
}

// LinkTo names the link through which packets for an address leave, empty when they
// go nowhere.
func LinkTo(addr netip.Addr) string {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}

// ipv6On reports whether the kernel takes IPv6 addresses on the link.
func ipv6On(link string) bool {
	b, err := os.ReadFile(ipv6Switch(link))
	if errors.Is(err, fs.ErrNotExist) {
		return false // ipv6.disable=1 on the kernel's command line
	}
	return err != nil || strings.TrimSpace(string(b)) != "1"
}

// ipv6Switch names the file that holds 1 while IPv6 is off on the link.
func ipv6Switch(link string) string {
	return filepath.Join("/proc/sys/net/ipv6/conf", link, "disable_ipv6")
}

// IPv6 reports whether the link takes IPv6 addresses now.
func (h *Host) IPv6() bool { return ipv6On(h.cfg.Link) }

func isUp(link netlink.Link) bool { return link.Attrs().Flags&net.FlagUp != 0 }

// address builds an own address: no duplicate address detection, which would
// delay the first packet, and no route of the kernel's making.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: toIPNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	}
	return a
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix is the zero Prefix for nil, which is how a default route looks.
func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}

// with appends p unless it is there.
func with(list []netip.Prefix, p netip.Prefix) []netip.Prefix {
	if slices.Contains(list, p) {
		return list
	}
	return append(list, p)
}

// gone drops errors that say that what is to be removed is not there.
func gone(err error) error {
	for _, e := range []error{unix.ESRCH, unix.ENODEV, unix.EADDRNOTAVAIL, unix.ENOENT} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func permission(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return err
}
