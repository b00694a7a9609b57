package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portHolder finds the process that listens on a UDP or TCP port of all addresses, or
// of the one at which the resolver wants to.
func portHolder(port uint16) holder { return findHolder(port, os.Getpid()) }

// findHolder leaves one process out.
func findHolder(port uint16, not int) holder {
	sockets := make(map[string]bool) // socket:[inode], as the descriptors have it
	for _, table := range []string{"udp", "udp6", "tcp", "tcp6"} {
		content, _ := os.ReadFile("/proc/self/net/" + table)
		for line := range bytes.Lines(content) {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			f := strings.Fields(string(line))
			if len(f) < 10 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			if addr, _, _ := strings.Cut(f[1], ":"); strings.Trim(addr, "0") == "" || addr == "9900007F" {
				sockets["socket:["+f[9]+"]"] = true
			}
		}
	}
	if len(sockets) == 0 {
		return holder{}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || !sockets[target] {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && pid != not {
			return holder{name: strings.TrimSpace(string(name)), pid: pid}
		}
	}
	return holder{}
}
