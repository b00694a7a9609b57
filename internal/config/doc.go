// Package config reads and writes what nodetun keeps in files: the settings
// (nodetun.toml), the peers (peers.toml) and what was learnt of their addresses
// (addresses.json).
//
// Settings are read only. Peers are read by anybody and changed by Peers.Edit
// alone, which holds a lock so that the daemon and a command beside it lose
// nothing of each other. Addresses are written by the daemon alone.
//
// A file that cannot be understood is an error that names file, line and key;
// it is never overwritten. The package applies nothing and starts nothing. All
// functions may be called concurrently.
package config
