//go:build !linux

package daemon

// portHolder knows no process on this system.
func portHolder(uint16) holder { return holder{} }

func findHolder(uint16, int) holder { return holder{} }
