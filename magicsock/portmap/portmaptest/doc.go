// Package portmaptest is a router for tests of port mappings, and a small
// network in memory to reach it.
package portmaptest
