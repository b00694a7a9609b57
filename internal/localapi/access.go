package localapi

import (
	"errors"
	"net"
	"slices"
)

// credentials are those of a process at the other end of a unix socket.
type credentials struct {
	uid    int
	groups []int // primary and supplementary
}

// access is what somebody may do.
type access int

const (
	accessNone access = iota
	accessRead
	accessAll
)

// judge decides by credentials (S25): uid 0 and the owner of the node may do
// everything, members of the group read, or what group says. gid is negative for no group.
func judge(c credentials, owner, gid int, group access) access {
	switch {
	case c.uid == 0 || c.uid == owner:
		return accessAll
	case gid >= 0 && slices.Contains(c.groups, gid):
		return group
	default:
		return accessNone
	}
}

// Why somebody may not: errForbidden for who may ask nothing, errTrust for who may only read.
var (
	errForbidden = Wrap(KindForbidden, errors.New("only root and members of the group "+Group+" may ask (try: sudo nodetun …)"))
	errTrust     = Wrap(KindForbidden, errors.New("that takes root (try: sudo nodetun …; the setting group_may_trust lets the group "+Group+" do it)"))
)

// unixConn finds the unix socket in a connection.
func unixConn(c net.Conn) (*net.UnixConn, bool) {
	u, ok := c.(*net.UnixConn)
	return u, ok
}
