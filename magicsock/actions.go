package magicsock

import (
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// perform carries out what the node map asked for, in order. No lock is held.
func (c *Conn) perform(acts []nodemap.Action) {
	for i := range acts {
		a := &acts[i]
		if (a.Kind == nodemap.SendPing || a.Kind == nodemap.SendPong) && a.To.UDP.IsValid() && !c.tunnels.usable(a.To.UDP) {
			continue
		}
		switch a.Kind {
		case nodemap.SendPing:
			c.stats.sentPing.Add(1)
			ping := &disco.Ping{TxID: a.TxID, Node: c.self}
			ping.Pad = max(0, a.Size-disco.PingLen)
			c.sendDisco(a.Node, a.To, ping)
		case nodemap.SendPong:
			c.stats.sentPong.Add(1)
			c.sendDisco(a.Node, a.To, &disco.Pong{TxID: a.TxID, Src: a.Src.UDP, Relay: a.Src.Relay})
		case nodemap.SendCallMeMaybe:
			c.survey.ask(a.Node, a.To)
		case nodemap.PunchSockets, nodemap.PunchSpray:
			c.punch.start(*a)
		case nodemap.Resend:
			c.resend(a.Node, a.Route)
		case nodemap.PathChanged:
			c.pathChanged(a)
		case nodemap.Lengthened:
			c.log.Debug("the path has become longer", "node", a.Node)
			c.MeasureAnew(a.Node)
		case nodemap.Discover:
			if c.cfg.Discover != nil {
				c.cfg.Discover(a.Node)
			}
		}
	}
}

// sendCallMe names our addresses to a node.
func (c *Conn) sendCallMe(node identity.NodeID, via nodemap.Addr) {
	c.stats.sentCallMeMaybe.Add(1)
	c.sendDisco(node, via, &disco.CallMeMaybe{Addrs: c.callMeAddrs(node)})
}

// sendDisco seals one message and sends it at once, past the queue of data.
func (c *Conn) sendDisco(node identity.NodeID, to nodemap.Addr, m disco.Message) {
	key, err := c.disco.keys.get(node)
	if err != nil {
		c.stats.badKey.Add(1)
		return
	}
	b := disco.Append(make([]byte, 0, discoSpace), c.self, &key, m)
	if to.UDP.IsValid() {
		if err := c.write(b, 0, 0, to.UDP); err != nil {
			c.stats.sendErrors.Add(1)
		}
		return
	}
	if !c.relays.Send(to.Relay, node, b, len(b)) {
		c.stats.relayDropped.Add(1)
	}
}

// discoSpace holds any disco message but the longest.
const discoSpace = 1280

// resend sends the last packets of a node again, after an outage.
func (c *Conn) resend(node identity.NodeID, r nodemap.Route) {
	r.Node = node
	for _, b := range c.paths.missed(time.Now(), node) {
		c.stats.resent.Add(1)
		_ = c.sendQUIC(b, len(b), 0, r) // the error of a closed Conn is nobody's concern here
	}
}

func (c *Conn) pathChanged(a *nodemap.Action) {
	c.log.Debug("path changed", "node", a.Node, "before", a.Before, "after", a.After,
		"udp", a.Route.UDP, "relay", a.Route.Relay, "reason", a.Reason)
	c.stats.pathChanges.add(a.Reason)
	if a.Before == nodemap.ConnDirect && a.Reason == nodemap.ReasonSilent {
		c.survey.doubt()
	}
	if c.cfg.OnPathChange != nil {
		c.cfg.OnPathChange(PathChange{Node: a.Node, Before: a.Before, After: a.After, Route: a.Route, Reason: a.Reason})
	}
}
