// Package atomicfile writes files that appear whole or not at all: a reader,
// and a machine that lost its power, see either the old content or the new one.
//
// It does not lock: two writers of one file do not mix their bytes, but the
// later one wins. Write may be called concurrently.
package atomicfile
