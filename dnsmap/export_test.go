package dnsmap

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"
)

// Reply answers one question as if it came by UDP.
func (s *Server) Reply(ctx context.Context, req *dns.Msg) *dns.Msg { return s.reply(ctx, req, false) }

// The parts of resolv.conf handling that tests look at alone.
var (
	AddBlocks   = addBlocks
	StripBlocks = stripBlocks
	UsesMusl    = usesMusl
)

// ReverseZones is reverseZones.
var ReverseZones = reverseZones

// IsLocal asks the kernel, as a Server does when Config.Local is nil.
func IsLocal(a netip.Addr) bool { return newLocalAddrs().has(a) }
