package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nodetun/nodetun/"

// layers lists what each package may import of ours: its name is a path below
// the module, a trailing /... takes the packages below it too. Nothing else.
var layers = map[string][]string{
	"identity":               {"internal/filecheck", "internal/plaintext"},
	"internal/atomicfile":    {},
	"internal/filecheck":     {},
	"internal/rules":         {},
	"internal/vnet":          {},
	"internal/packet":        {},
	"internal/nstest":        {},
	"internal/hosttest":      {"internal/nstest", "magicsock/portmap/portmaptest"},
	"internal/natlab":        {"identity", "magicsock", "magicsock/udpconn", "internal/netmon", "relay/..."},
	"internal/natmatrix":     {},
	"internal/tcpdiff":       {},
	"internal/hostile":       {"identity", "endpoint", "internal/wire", "relay"},
	"internal/bench":         {},
	"internal/discoveryload": {"identity", "discovery/pkarr", "internal/procstat"},
	"internal/relayload":     {"identity", "relay", "relay/relayclient", "internal/procstat"},
	"internal/house":         {},
	"internal/interop":       {},
	"internal/e2e":           {},
	"internal/netmon":        {},
	"internal/outage":        {},
	"internal/plaintext":     {},
	"internal/proxies":       {"identity"},
	"internal/metrics":       {},
	"internal/webserver":     {"internal/filecheck", "internal/plaintext", "internal/ratelimit"},
	"internal/procstat":      {},
	"internal/ratelimit":     {},
	"internal/sshkeys":       {},
	"internal/pairing":       {"identity"},
	"internal/invites":       {"identity", "internal/atomicfile", "internal/filecheck", "internal/ratelimit"},

	"magicsock/disco":           {"identity"},
	"relay":                     {"identity"},
	"relay/iroh1":               {"identity", "relay"},
	"relay/relayclient":         {"identity", "relay", "relay/iroh1"},
	"relay/relayserver":         {"identity", "relay", "relay/iroh1", "internal/atomicfile", "internal/metrics", "internal/ratelimit", "internal/webserver"},
	"internal/wire":             {"identity", "internal/packet"},
	"magicsock/nodemap":         {"identity", "magicsock/disco"},
	"magicsock/udpconn":         {"identity"},
	"magicsock/fec":             {},
	"magicsock/portmap":         {"magicsock/portmap/..."},
	"magicsock/netcheck":        {"identity", "relay"},
	"magicsock/relayactor":      {"identity", "relay/..."},
	"magicsock":                 {"identity", "magicsock/...", "relay/...", "internal/netmon", "internal/outage", "internal/proxies"},
	"discovery":                 {"identity"},
	"discovery/static":          {"identity", "discovery"},
	"discovery/dns":             {"identity", "discovery"},
	"discovery/dht":             {"identity", "discovery", "discovery/pkarr", "discovery/dht/bencode"},
	"discovery/mdns":            {"identity", "discovery", "internal/ratelimit"},
	"discovery/pkarr":           {"identity", "discovery"},
	"discovery/discoveryserver": {"identity", "discovery", "discovery/pkarr", "discovery/dht", "internal/metrics", "internal/ratelimit", "internal/webserver"},
	"discovery/discoveryserver/discoverytest": {"discovery", "discovery/discoveryserver", "discovery/dns", "discovery/pkarr"},
	"endpoint": {"identity", "magicsock/...", "discovery", "discovery/dns", "relay/...", "internal/ratelimit"},

	"tun":      {"internal/vnet"},
	"netstack": {"internal/vnet", "internal/packet"},
	"routing":  {"identity"},
	"dnsmap":   {"identity", "internal/atomicfile"},

	"internal/engine":   {"identity", "endpoint", "tun", "netstack", "routing", "dnsmap", "magicsock", "magicsock/nodemap", "internal/outage", "internal/wire", "internal/packet", "internal/vnet", "internal/rules", "internal/sshkeys"},
	"internal/config":   {"identity", "internal/atomicfile", "internal/filecheck", "internal/rules", "internal/plaintext", "internal/proxies"},
	"internal/localapi": {"identity", "internal/filecheck", "magicsock/netcheck"},
	"internal/doctor":   {"identity", "internal/localapi"},
	"internal/daemon": {
		"identity", "internal/wire", "endpoint", "tun", "routing", "dnsmap", "discovery/...", "magicsock", "magicsock/nodemap", "magicsock/netcheck", "magicsock/relayactor", "magicsock/udpconn", "internal/engine",
		"internal/config", "internal/localapi", "internal/rules", "internal/atomicfile", "internal/filecheck", "internal/plaintext", "internal/packet", "internal/vnet", "internal/metrics", "internal/proxies", "internal/invites", "internal/pairing", "internal/sshkeys", "relay",
	},

	"cmd/nodetun":            {"identity", "internal/atomicfile", "internal/config", "internal/daemon", "internal/doctor", "internal/filecheck", "internal/localapi", "internal/rules", "internal/plaintext", "relay/relayserver", "discovery/discoveryserver", "internal/webserver"},
	"endpoint/examples/echo": {"identity", "endpoint", "magicsock"},
}

// homes names, for each outside module that has one, the packages that may
// import it.
var homes = map[string][]string{
	"golang.zx2c4.com/wireguard":       {"tun"},
	"gvisor.dev/gvisor":                {"netstack"},
	"github.com/quic-go/quic-go":       {"endpoint"},
	"github.com/huin/goupnp":           {"magicsock/portmap"},
	"github.com/pion/stun/v2":          {"magicsock/netcheck", "relay/relayserver", "internal/natlab"},
	"github.com/vishvananda/netlink":   {"tun", "routing", "internal/netmon"},
	"github.com/vishvananda/netns":     {"internal/nstest"},
	"github.com/google/nftables":       {"routing"},
	"github.com/spf13/cobra":           {"cmd/nodetun"},
	"github.com/mdp/qrterminal/v3":     {"cmd/nodetun"},
	"github.com/klauspost/reedsolomon": {"magicsock/fec"},
	"github.com/dchest/siphash":        {"magicsock/fec"},
	"github.com/pelletier/go-toml/v2":  {"internal/config", "internal/webserver"},
	"github.com/miekg/dns":             {"dnsmap", "discovery", "internal/discoveryload", "internal/doctor"},
	"github.com/godbus/dbus/v5":        {"dnsmap"},
	"go.etcd.io/bbolt":                 {"discovery/discoveryserver"},
	"github.com/coder/websocket":       {"relay/relayserver", "relay/relayclient"},
	"github.com/coreos/go-systemd/v22": {"internal/daemon"},
	"filippo.io/edwards25519":          {"identity"},
	"github.com/hashicorp/golang-lru":  {"relay/relayserver", "discovery/discoveryserver"},
	"github.com/jackc/pgx/v5":          {"discovery/discoveryserver"},
	"github.com/prometheus":            {"internal/metrics"},
	"golang.org/x/crypto/ssh":          {"identity", "internal/sshkeys"},
	"golang.org/x/crypto/scrypt":       {"internal/pairing"},
	"golang.org/x/crypto/acme":         {"relay/relayserver", "discovery/discoveryserver", "internal/webserver"},
	"github.com/pires/go-proxyproto":   {"relay/relayserver", "internal/webserver"},
	"golang.org/x/net/http/httpproxy":  {"internal/proxies"},
}

type goPackage struct {
	ImportPath, Dir string
	Imports         []string
}

// packages asks the go command for every package and its direct imports,
// without those of its tests: a test may reach where the product may not.
func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 10 {
		t.Fatalf("go list found only %d packages", len(list))
	}
	return list
}

// allowed reports whether pattern list permits the path.
func allowed(list []string, path string) bool {
	return slices.ContainsFunc(list, func(pattern string) bool {
		below, all := strings.CutSuffix(pattern, "/...")
		return path == pattern || all && (path == below || strings.HasPrefix(path, below+"/"))
	})
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		may, known := layers[name]
		if !known {
			if parent := parentOf(name); parent == "" {
				t.Errorf("%s has no place in the layout: add it to layers and to ARCHITECTURE.md", name)
				continue
			} else {
				may = append(slices.Clone(layers[parent]), parent, parent+"/...")
			}
		}
		for _, imported := range p.Imports {
			ours, ok := strings.CutPrefix(imported, module)
			if ok && !allowed(may, ours) {
				t.Errorf("%s imports %s, which is not below it", name, ours)
			}
		}
	}
}

// parentOf finds the listed package that name lies below: helpers such as
// tun/tuntest share the rules of the package they serve.
func parentOf(name string) string {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if _, ok := layers[dir]; ok {
			return dir
		}
	}
	return ""
}

func TestOutsideModulesStayHome(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			for outside, home := range homes {
				if imported != outside && !strings.HasPrefix(imported, outside+"/") {
					continue
				}
				inside := slices.ContainsFunc(home, func(h string) bool {
					return name == h || strings.HasPrefix(name, h+"/")
				})
				if !inside {
					t.Errorf("%s imports %s, whose home is %v", name, imported, home)
				}
			}
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if _, err := os.Stat(filepath.Join(p.Dir, "doc.go")); err != nil && !strings.Contains(p.ImportPath, "/examples/") {
			t.Errorf("%s has no doc.go", p.ImportPath)
		}
	}
}

// Every promise of docs/security.md names tests that there are.
func TestPromisesAreTested(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	dirs := make(map[string][]string) // by the end of the path
	for _, p := range packages(t) {
		for name := strings.TrimPrefix(p.ImportPath, module); ; {
			dirs[name] = append(dirs[name], p.Dir)
			_, rest, more := strings.Cut(name, "/")
			if !more {
				break
			}
			name = rest
		}
	}
	named := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.Contains(line, "---") || strings.TrimSpace(cells[3]) == "tested" {
			continue
		}
		if !strings.Contains(cells[3], "`") {
			t.Errorf("no test: %s", line)
		}
		for entry := range strings.SplitSeq(cells[3], ";") {
			where, tests, ok := strings.Cut(strings.TrimSpace(entry), " ")
			if !ok || len(dirs[where]) != 1 {
				t.Errorf("%q: no package %s, or several", entry, where)
				continue
			}
			for test := range strings.SplitSeq(tests, ",") {
				named++
				if test = strings.Trim(strings.TrimSpace(test), "`"); !hasTest(t, dirs[where][0], test) {
					t.Errorf("%s has no test %s", where, test)
				}
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d tests are named", named)
	}
}

// hasTest looks for a test by its name without Test or TestNetns.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, prefix := range []string{"Test", "TestNetns"} {
			if bytes.Contains(b, []byte("\nfunc "+prefix+name+"(")) {
				return true
			}
		}
	}
	return false
}
