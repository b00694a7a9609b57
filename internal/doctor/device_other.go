//go:build !linux

package doctor

// device knows nothing of other systems.
func device() *Finding { return nil }
