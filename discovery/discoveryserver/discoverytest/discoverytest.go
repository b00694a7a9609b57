package discoverytest

import (
	"context"
	"net/http"
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/discoveryserver"
	"github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/discovery/pkarr"
)

// Origin is the zone of the server in the DNS.
const Origin = "discovery.test"

// Server is one on loopback, over plain HTTP.
type Server struct {
	*discoveryserver.Server
	// URL is that for a pkarr.Client, DNS the address of the DNS by UDP and TCP.
	URL string
	DNS netip.AddrPort

	client *http.Client
}

// Start runs a server until the test ends.
func Start(t testing.TB, cfg discoveryserver.Config) *Server {
	t.Helper()
	cfg.Addr, cfg.DNSAddr, cfg.Origins = "127.0.0.1:0", "127.0.0.1:0", []string{Origin}
	s := &Server{Server: discoveryserver.New(cfg), client: &http.Client{Transport: &http.Transport{}}}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	s.URL, s.DNS = "http://"+s.Addr().String()+"/pkarr", netip.MustParseAddrPort(s.DNSAddr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// Client puts and gets packets.
func (s *Server) Client() pkarr.Client { return pkarr.Client{URL: s.URL, HTTP: s.client} }

// Resolver asks by HTTP and by DNS.
func (s *Server) Resolver() discovery.Resolver {
	return discovery.Concurrent{
		pkarr.Resolver{Client: s.Client()},
		&dns.Resolver{Origin: Origin, Client: dns.Client{Servers: func() []netip.AddrPort { return []netip.AddrPort{s.DNS} }}},
	}
}
