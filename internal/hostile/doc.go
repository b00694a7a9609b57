// Package hostile attacks nodes, for tests: it plays a peer that has the right key and is
// allowed to connect, and then does what no program of ours would. What it does follows
// from a seed.
package hostile
