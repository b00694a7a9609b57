//go:build linux

package nstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// lookup is a program of C.
const lookup = `#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
	int found = 0;
	for (int i = 0; i < 20; i++) {
		struct addrinfo *list;
		if (getaddrinfo(argv[1], "22", 0, &list) == 0) {
			found++;
			freeaddrinfo(list);
		}
	}
	printf("%d\n", found);
	return 0;
}
`

// CompileLookup makes a program with a compiler of C and returns its path. It asks the
// compiler's C library 20 times for the name that is its argument, and prints how often it
// had an answer.
func CompileLookup(t testing.TB, compiler string, args ...string) string {
	t.Helper()
	Require(t, compiler)
	dir := t.TempDir()
	source, program := filepath.Join(dir, "lookup.c"), filepath.Join(dir, "lookup")
	if err := os.WriteFile(source, []byte(lookup), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(compiler, append(args, "-o", program, source)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", compiler, err, out)
	}
	return program
}
