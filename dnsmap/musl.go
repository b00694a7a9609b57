package dnsmap

import (
	"debug/elf"
	"strings"
)

// Musl reports whether musl is the C library of this host, by what its shell is linked
// to.
func Musl() bool { return usesMusl("/bin/sh") }

// usesMusl reads the program interpreter (PT_INTERP, elf(5)), such as
// /lib/ld-musl-x86_64.so.1.
func usesMusl(program string) bool {
	f, err := elf.Open(program)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		path := make([]byte, p.Filesz)
		if _, err := p.ReadAt(path, 0); err == nil && strings.Contains(string(path), "/ld-musl-") {
			return true
		}
	}
	return false
}
