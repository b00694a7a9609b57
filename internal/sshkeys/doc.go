// Package sshkeys reads the public host keys of ssh servers: those of this host, and those
// that peers vouch for (S23).
package sshkeys
