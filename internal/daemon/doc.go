// Package daemon builds a whole node out of the other packages, runs it and
// undoes it. Run reads from top to bottom: files, identity, endpoint, device,
// table, names, engine, control socket; everything is made first, then started,
// and stopped in reverse. It decides nothing about packets or paths.
//
// Offline answers what can be answered from the files of a node that is not
// running.
//
// A Daemon is used once. The methods that the control socket calls may run
// concurrently.
package daemon
