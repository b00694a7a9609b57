//go:build linux

package hosttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
)

// debian makes, in a mount namespace of its own, a root directory in which the packages
// named by its arguments after the first, a directory to work in, are unpacked over what
// this machine has. Whatever is changed there is in memory, and gone with the process.
const debian = `set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
cd "$1"
shift
mkdir packages changed work host
for deb; do dpkg -x "$deb" packages; done
for dir in bin sbin lib lib64; do # /bin and so on are links on this machine
	if [ -L "/$dir" ] && [ -d "packages/$dir" ]; then
		mkdir -p "packages/usr/$dir"
		cp -a "packages/$dir/." "packages/usr/$dir"
		rm -r "packages/$dir"
	fi
done
mount -t overlay overlay -o lowerdir=packages:/,upperdir=changed,workdir=work host
mount -t proc proc host/proc
mount -t sysfs -o ro sysfs host/sys
mount --rbind /dev host/dev
mount --rbind "$TMPDIR" "host$TMPDIR"
mount -t tmpfs none host/run
mkdir -p host/run/dbus host/run/sshd
echo "root is ready"
exec sleep infinity
`

// Debian gives the host a root directory of its own, in which the named packages of Debian
// are unpacked and nothing is configured or started. They are those that scripts/test
// fetches into testdata/debian of the test's package; where it could not the test skips.
// All that runs on the host from now on runs there.
func (h *Host) Debian(t testing.TB, packages ...string) {
	t.Helper()
	argv := []string{"env", "TMPDIR=" + os.TempDir(), "unshare", "--mount", "sh", "-c", debian, "debian", filepath.Join(h.Dir, "root")}
	if err := os.Mkdir(argv[len(argv)-1], 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range packages {
		files, err := filepath.Glob(filepath.Join("testdata", "debian", name, "*.deb"))
		if err != nil || len(files) == 0 {
			t.Skipf("needs Debian's package %s: run scripts/test as root, which fetches it", name)
		}
		for _, file := range files {
			if file, err = filepath.Abs(file); err != nil {
				t.Fatal(err)
			}
			argv = append(argv, file)
		}
	}
	nstest.Require(t, "dpkg")
	root := h.Spawn(t, argv...)
	Eventually(t, 20*time.Second, "the root directory of "+strings.Join(packages, " "), func() error {
		if root.Exited() {
			t.Fatal(root.Output())
		}
		if !strings.Contains(root.Output(), "root is ready") {
			return fmt.Errorf("not yet: %s", root.Output())
		}
		return nil
	})
	h.NS.Within = []string{
		"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", root.PID()), "chroot", filepath.Join(h.Dir, "root", "host"),
	}
}
