//go:build linux

package hosttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// programVariable names a nodetun to test in place of the one of this source.
const programVariable = "NODETUN_TEST_BINARY"

// program is the path of the nodetun under test, set once by Main.
var program string

// Program returns the path of the nodetun under test.
func Program() string { return program }

// Main provides the program, runs the tests and returns their exit code.
// Without root it provides nothing: tests that need it skip and say why.
func Main(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run()
	}
	if given := os.Getenv(programVariable); given != "" {
		program = given
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "nodetun-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // for a test without root
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(dir, "nodetun")
	build := exec.Command("go", "build", "-o", program, "github.com/nodetun/nodetun/cmd/nodetun")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build nodetun: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
