// Package atomicfile writes files that are never seen half-written: the new
// content stands in a file beside the old one, is on the disk before it takes
// the name, and the name is on the disk before Write returns.
//
// It is not a lock: of two writers the later wins. Write may be called
// concurrently.
package atomicfile
