// Package daemon builds a node from its parts, runs it, and undoes what it did
// to the host.
//
// Run reads from top to bottom: each step opens one thing and notes how to undo
// it. When everything is open the parts run side by side until the context ends,
// somebody asks for it on the control socket, or a part fails. Then they end,
// the tunnel before the underlay, and the steps are undone in reverse; the
// control socket goes last, so that whoever sees it gone knows that the host is
// as it was.
//
//	daemon.go     Config, Run, the order of things
//	state.go      the state directory: key, salt, files
//	node.go       the side that knows NodeIDs: endpoint, engine
//	host.go       the side that programs see: link, addresses, names
//	link.go       the TUN, made anew when somebody removes it
//	peers.go      the list of peers, brought into force
//	store.go      the changes to that list that commands ask for
//	addresses.go  addresses.json
//	status.go, backend.go   what the control socket answers
//	offline.go, cleanup.go  the same beside a node that is not running
//
// It decides nothing about packets or paths.
package daemon
