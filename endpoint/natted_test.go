package endpoint

import (
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/natlab"
	"github.com/nodetun/nodetun/magicsock"
)

// natted are two nodes of a lab, one behind a NAT, and the connection that it dialled.
type natted struct {
	lab             *natlab.Lab
	router          *natlab.NAT
	inside, outside *natlab.Host
	dialler         *node
	acceptor        *node
	dialled         *Connection
	accepted        *Connection
}

// startNatted starts them. It is called in a bubble.
func startNatted(t *testing.T) *natted {
	t.Helper()
	lab := natlab.New(t)
	router := lab.Internet.NAT(natlab.Config{Mapping: natlab.EndpointIndependent, Filtering: natlab.EndpointIndependent, Timeout: time.Hour})
	n := &natted{lab: lab, router: router, inside: router.Inside.Host(), outside: lab.Internet.Host()}
	onHost := func(h *natlab.Host) *node {
		return start(t, Config{
			Socket: magicsock.Config{
				Key: identity.GenerateSecretKey(), Underlay: h.Underlay(), Paired: func(identity.NodeID) bool { return true },
			},
			ALPNs: []string{testALPN}, SessionALPNs: []string{testALPN},
		})
	}
	n.dialler, n.acceptor = onHost(n.inside), onHost(n.outside)
	accepted := make(chan *Connection, 1)
	go func() {
		c, err := n.acceptor.Accept(t.Context())
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	v4, _ := n.acceptor.LocalAddrs()
	var err error
	n.dialled, err = n.dialler.Connect(t.Context(), identity.NodeAddr{
		ID: n.acceptor.NodeID(), Direct: []netip.AddrPort{netip.AddrPortFrom(n.outside.Addr(), v4.Port())},
	}, testALPN)
	if err != nil {
		t.Fatal(err)
	}
	n.accepted = <-accepted
	return n
}
