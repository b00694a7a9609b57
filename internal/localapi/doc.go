// Package localapi is how commands talk to the running node: HTTP with JSON on
// a unix socket.
//
//	GET    /v1/status
//	GET    /v1/self
//	GET    /v1/ticket
//	GET    /v1/whois?addr=ADDRESS
//	GET    /v1/check?peer=PEER&rule=RULE
//	POST   /v1/ping                      PingRequest
//	GET    /v1/peers
//	POST   /v1/peers                     AddRequest
//	POST   /v1/forget, /v1/allow, /v1/deny   RulesRequest
//	POST   /v1/reload
//	POST   /v1/down
//
// Backend names what can be asked; the daemon implements it, Server offers it on
// the socket, and Client is the same Backend on the other side. An error travels
// as an Error, whose Kind says what the asker can do.
//
// Who asks is known by the credentials that the kernel vouches for (S25): uid 0
// and the user who runs the node may do everything, members of the group
// nodetun may read and ping. There is no TCP control.
//
// It decides nothing and keeps nothing. All methods may be called concurrently.
package localapi
