package dnsmap

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// The lines around what we add to resolv.conf, and what begins a line of others that is
// out of force while we run. They are comments for every reader of that file.
const (
	markBegin = "# nodetun begin (the next line is removed when nodetun stops)"
	markEnd   = "# nodetun end"
	markHides = "# nodetun hides: "
)

// addBlocks puts our nameserver in front of the file, so that it is asked
// first, but behind a first line by which a program knows its file, and the search list, if wanted, at its end, where the last one counts. The
// option rotate, by which others would be asked first, is taken out; if ours is to be
// alone the other nameservers are too.
func addBlocks(base []byte, server netip.Addr, search string, alone bool) []byte {
	var out []byte
	if end := bytes.IndexByte(base, '\n') + 1; writerOf("", base[:end]) != nil {
		out, base = append(out, base[:end]...), base[end:]
	}
	out = fmt.Appendf(out, "%s\nnameserver %s\n%s\n", markBegin, server, markEnd)
	for line := range bytes.Lines(base) {
		f := strings.Fields(string(line))
		switch {
		case alone && len(f) > 1 && f[0] == "nameserver":
			out = append(out, markHides...)
		case len(f) > 1 && f[0] == "options" && slices.Contains(f, "rotate"):
			rest := slices.DeleteFunc(f, func(option string) bool { return option == "rotate" })
			if len(rest) > 1 {
				out = fmt.Appendf(out, "%s\n%s\n%s\n", markBegin, strings.Join(rest, " "), markEnd)
			}
			out = append(out, markHides...)
		}
		out = append(out, line...)
	}
	if search == "" {
		return out
	}
	if len(base) > 0 && base[len(base)-1] != '\n' {
		out = append(out, '\n')
	}
	list := append(searchList(base), search)
	return fmt.Appendf(out, "%s\nsearch %s\n%s\n", markBegin, strings.Join(list, " "), markEnd)
}

// stripBlocks removes our marks and the line that follows each first mark, if
// it is of the kind we write, and brings back what was hidden. Everything else stays,
// whoever wrote it.
func stripBlocks(content []byte) []byte {
	var out []byte
	after := false // the line before was markBegin
	for line := range bytes.Lines(content) {
		text := strings.TrimSpace(string(line))
		switch {
		case text == markBegin:
			after = true
			continue
		case text == markEnd:
		case after && slices.ContainsFunc([]string{"nameserver ", "search ", "options "}, func(kind string) bool { return strings.HasPrefix(text, kind) }):
		default:
			out = append(out, bytes.TrimPrefix(line, []byte(markHides))...)
		}
		after = false
	}
	return out
}

// nameservers lists the servers of a resolv.conf without our blocks. A file
// that names none means the one on this host (resolv.conf(5)).
func nameservers(base []byte) []string {
	var list []string
	for line := range bytes.Lines(base) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if _, err := netip.ParseAddr(f[1]); err == nil && !slices.Contains(list, f[1]) {
			list = append(list, f[1])
		}
	}
	if len(list) == 0 {
		return []string{"127.0.0.1"}
	}
	return list
}

// resolvedConf is where systemd-resolved lists the servers that it asks itself.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

// HostServers lists the addresses of the servers that this host asks, without ours.
func HostServers() []string {
	var list []string
	for _, path := range []string{hostResolvConf, resolvedConf} {
		if content, err := os.ReadFile(path); err == nil {
			list = append(list, nameservers(stripBlocks(content))...)
		}
	}
	return list
}

// searchList returns the search domains in force: those of the last line.
func searchList(base []byte) []string {
	var list []string
	for line := range bytes.Lines(base) {
		if f := strings.Fields(string(line)); len(f) > 1 && (f[0] == "search" || f[0] == "domain") {
			list = f[1:]
		}
	}
	return slices.Clone(list)
}

// asksResolved reports whether a resolv.conf has programs ask systemd-resolved: it holds
// the address of its stub.
func asksResolved(base []byte) bool {
	return slices.ContainsFunc(nameservers(base), func(s string) bool {
		return s == "127.0.0.53" || s == "127.0.0.54"
	})
}
