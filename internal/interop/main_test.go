//go:build linux

package interop

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

var doc = flag.String("doc", "", "write the table into this file")

// inside marks the process that runs in the namespace; its value says why there is
// none.
const inside = "NODETUN_INTEROP"

// TestMain runs the tests in a namespace of their own: as root, or as the root of a
// user namespace.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	os.Exit(outside())
}

func outside() int {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := again(attr, "yes")
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil { // no namespaces here: every test says so
		err = again(nil, "no network namespace: "+err.Error())
	}
	if err != nil {
		return 1
	}
	return 0
}

// again runs this process once more.
func again(attr *syscall.SysProcAttr, mark string) error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"="+mark)
	cmd.SysProcAttr = attr
	return cmd.Run()
}

// The interface of the namespace with its addresses. Its other end, far, lies there
// idle, or in the namespace of a node that is to be on another host.
const (
	near, far  = "eth0", "eth1"
	firstAddr  = "10.77.0.1"
	secondAddr = "10.77.0.2"
	farAddr    = "10.77.0.3"
)

// network makes the interfaces of the namespace, once.
func network(t *testing.T) {
	t.Helper()
	if mark := os.Getenv(inside); mark != "yes" {
		t.Skip(mark)
	}
	for _, program := range []string{"node", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs the program %q: run scripts/test, which installs it", program)
		}
	}
	if _, err := os.Stat(filepath.Join("node", "node_modules", "iroh-0.28")); err != nil {
		t.Skip("needs the bindings of iroh for Node.js: run scripts/test, which installs them with npm")
	}
	if _, err := netlink.LinkByName(near); err == nil {
		return
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", near, far} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	// Otherwise the first one that is removed takes the others along.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/promote_secondaries", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{firstAddr, secondAddr} {
		setAddr(t, addr, true)
	}
	if err := ownNames(); err != nil {
		t.Fatal(err)
	}
}

// ownNames has this process and its children ask this host for names.
var ownNames = sync.OnceValue(func() error {
	file, err := os.CreateTemp("", "nodetun-interop-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString("nameserver " + firstAddr + "\n"); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := os.Chmod(file.Name(), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return err
	}
	return syscall.Mount(file.Name(), "/etc/resolv.conf", "", syscall.MS_BIND, "")
})

func setAddr(t *testing.T, addr string, present bool) {
	t.Helper()
	link, err := netlink.LinkByName(near)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(addr + "/24")
	if err != nil {
		t.Fatal(err)
	}
	if present {
		err = netlink.AddrReplace(link, a)
	} else {
		err = netlink.AddrDel(link, a)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// elsewhere gives a process with a network namespace of its own the far end. When it
// is gone, the interface is too, which the end of the test waits for.
func elsewhere(t *testing.T, pid int) {
	t.Helper()
	t.Cleanup(func() {
		for gone := false; !gone; time.Sleep(10 * time.Millisecond) {
			_, err := netlink.LinkByName(near)
			gone = err != nil
		}
	})
	link, err := netlink.LinkByName(far)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsPid(link, pid); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"link set lo up", "addr add " + farAddr + "/24 dev " + far, "link set " + far + " up", "route add 224.0.0.0/4 dev " + far} {
		cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(pid), "-n", "ip"}, strings.Fields(words)...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", words, err, out)
		}
	}
}

// blockUDP leaves the relay as the only way until the test ends, or free is called.
func blockUDP(t *testing.T) (free func()) {
	t.Helper()
	nft := func(text string) {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v: %s", err, out)
		}
	}
	nft("table inet block { chain out { type filter hook output priority 0; meta l4proto udp drop; }; }")
	blocked := true
	free = func() {
		if blocked {
			blocked = false
			nft("delete table inet block")
		}
	}
	t.Cleanup(free)
	return free
}

// row is a line of the table.
type row struct{ who, direction, way, shown string }

var rows []row

// shown notes what a test has shown.
func shown(t *testing.T, who, direction, way, what string) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() && !t.Skipped() {
			rows = append(rows, row{who, direction, way, what})
		}
	})
}

// Marks in the document between which the table stands.
const tableBegin, tableEnd = "<!-- table: made by the tests of internal/interop -->\n", "<!-- end of table -->"

// TestZWriteTable is the last: it writes what the others have shown.
func TestZWriteTable(t *testing.T) {
	if *doc == "" {
		t.Skip("no -doc")
	}
	if len(rows) < 10 {
		t.Fatalf("only %d rows: run all tests", len(rows))
	}
	var b strings.Builder
	b.WriteString("| version | direction | path | shown |\n|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.who, r.direction, r.way, r.shown)
	}
	text, err := os.ReadFile(*doc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", *doc)
	}
	if err := os.WriteFile(*doc, []byte(before+tableBegin+b.String()+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
