package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// write makes a file in a fresh directory.
func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSettingsDefaults(t *testing.T) {
	got, err := Load(filepath.Join(t.TempDir(), "missing.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSettingsLoad(t *testing.T) {
	s, err := Load(write(t, "nodetun.toml", `
# every key
name = "laptop"
zone = "node.example"
search = true
on_demand = "off"
port = 0
bind = "192.0.2.7:1234, 2001:db8::7"
relays = ["https://relay.example.org", "https://RELAY.example.org/"]
relay_token = "secret"
stun = ["stun.example.org:3478"]
discovery = "none"
publish = "none"
dns = "file"
tun = "nt0"
ipv4_pool = "10.9.0.0/16"
mtu = 1380
punch = "normal"
fec = "auto"
portmap = false
mdns = false
dht = true
proxy = "socks5://proxy.example.org:1080"
fwmark = "0x123"
session_timeout = "30m"
flow_timeout = "15m"
metrics_addr = "off"
log_level = "debug"
log_format = "json"
`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "laptop" || s.Zone != "node.example" || !s.Search || s.OnDemand != "off" || s.Port != 0 || s.DNS != "file" ||
		s.TUN != "nt0" || s.IPv4Pool != "10.9.0.0/16" || s.MTU != 1380 || s.Portmap || s.MDNS || !s.DHT ||
		s.SessionTimeout != 30*time.Minute || s.FlowTimeout != 15*time.Minute || s.Fwmark != 0x123 || s.Proxy != "socks5://proxy.example.org:1080" || s.LogLevel != slog.LevelDebug || s.LogFormat != "json" || s.RelayToken != "secret" {
		t.Errorf("got %+v", s)
	}
	if len(s.Bind) != 2 || s.Bind[0].String() != "192.0.2.7:1234" || s.Bind[1].String() != "[2001:db8::7]:0" {
		t.Errorf("bind %v", s.Bind)
	}
	if len(s.Relays) != 1 {
		t.Errorf("one relay written twice: %v", s.Relays)
	}
	if err := s.Set("port", "1234"); err != nil || s.Port != 1234 {
		t.Errorf("a number as a flag has it: %v, %d", err, s.Port)
	}
	if err := s.Set("port", "http"); err == nil {
		t.Error("a word became a port")
	}
	if err := s.Set("dht", false); err != nil || s.DHT {
		t.Errorf("a flag that takes it back: %v, %v", err, s.DHT)
	}
}

// The table of keys is the contract: none is missing, none is more.
func TestKeysAreTheContract(t *testing.T) {
	want := strings.Fields(`name zone search on_demand port bind relays relay_token relay_token_file stun discovery publish dns tun ipv4_pool mtu
		punch fec portmap mdns dht proxy fwmark session_timeout flow_timeout metrics_addr group_may_trust metrics_public metrics_profiles log_level log_format`)
	if !slices.Equal(Keys(), want) {
		t.Errorf("keys %v, want %v", Keys(), want)
	}
}

func TestSettingsErrors(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"unknown key", "port = 1\n\nprot = 2\n", ":3: prot: unknown key (did you mean port?)"},
		{"swapped letters", "pubilsh = \"all\"\n", ":1: pubilsh: unknown key (did you mean publish?)"},
		{"singular", "relay = []\n", ":1: relay: unknown key (did you mean relays?)"},
		{"short form", "log = \"info\"\n", "did you mean log_level?"},
		{"another word", "entirely_different_thing = 1\n", "known are name, zone"},
		{"table", "[section]\nport = 1\n", ":1: section: unknown key"},
		{"wrong type", "name = 3\n", ":1: name: must be text in quotes, not 3"},
		{"not a list", "relays = \"https://r.example\"\n", "must be a list"},
		{"port", "\nport = 65536\n", ":2: port: 65536 is no port"},
		{"mtu", "mtu = 1000\n", "is no mtu"},
		{"word", "dns = \"magic\"\n", `"magic" is unknown (use auto, resolved, networkmanager, resolvconf, file or none)`},
		{"relay", "relays = [\"ftp://r.example\"]\n", ":1: relays: "},
		{"discovery", "discovery = \"https://\"\n", `"https://" is no URL`},
		{"discovery with a password", "discovery = \"https://me:secret@d.example\"\n", "holds no name and no password"},
		{"bind", "bind = \"here\"\n", `"here" is no address`},
		{"bind twice", "bind = \"192.0.2.1 192.0.2.2\"\n", "one address of each family"},
		{"proxy", "proxy = \"ftp://10.0.0.1\"\n", ":1: proxy: names a proxy of a kind that cannot be used: ftp"},
		{"mark", "fwmark = \"red\"\n", `"red" is no mark`},
		{"mark too large", "fwmark = 4294967296\n", "4294967296 is no mark"},
		{"short duration", "flow_timeout = \"59s\"\n", "is no duration"},
		{"duration", "session_timeout = \"3\"\n", "is no duration"},
		{"syntax", "name = \"a\"\nport = = 3\n", ":2"},
		{"same key twice", "port = 1\nport = 2\n", ":2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, "nodetun.toml", tc.content)
			_, err := Load(path)
			var file *FileError
			if !errors.As(err, &file) || !errors.Is(err, ErrBadFile) {
				t.Fatalf("got %v", err)
			}
			text := strings.ReplaceAll(err.Error(), path, "FILE")
			if !strings.Contains(text, tc.want) || !strings.HasPrefix(text, "FILE:") || strings.Contains(text, "\n") {
				t.Errorf("got %q, want %q in it", text, tc.want)
			}
		})
	}
}

// S5: a file with a secret in it is refused when others can read it.
func TestSettingsSecretReadable(t *testing.T) {
	for _, line := range []string{"relay_token = \"x\"\n", "proxy = \"http://ann:x@proxy.example.org:3128\"\n"} {
		path := write(t, "nodetun.toml", line)
		if _, err := Load(path); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []os.FileMode{0o640, 0o604} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("%s, mode %o: %v", line, mode, err)
			}
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("port = 1\n[a.b]\nc = [1, {d = 2}]\n[[a.e]]\n\"x y\".z = 3\n")
	f.Add("relays = [\"https://r.example\"] # c\n")
	f.Fuzz(func(t *testing.T, content string) {
		doc, err := parse("f", []byte(content))
		if err != nil {
			return
		}
		s := Default()
		for key, value := range doc.root {
			if err := s.Set(key, value); err != nil && doc.errorAt(key, err).Error() == "" {
				t.Error("an error without text")
			}
		}
		if doc, err = parse("f", []byte(content)); err == nil {
			_, _ = readPeers(doc)
		}
	})
}

// S2, S5: a token is for exactly one relay, and for nobody else's eyes.
func TestToken(t *testing.T) {
	dir := t.TempDir()
	file := func(mode os.FileMode, text string) string {
		path := filepath.Join(dir, "token-"+mode.String())
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret, open := file(0o600, "sesame\n"), file(0o644, "sesame\n")
	for _, test := range []struct {
		set   map[string]any
		token string
		err   string
	}{
		{map[string]any{}, "", ""},
		{map[string]any{"relays": []string{"https://one.example"}, "relay_token": "sesame"}, "sesame", ""},
		{map[string]any{"relays": []string{"https://one.example"}, "relay_token_file": secret}, "sesame", ""},
		{map[string]any{"relays": []string{"https://one.example"}, "relay_token_file": open}, "", "chmod 600"},
		{map[string]any{"relays": []string{"https://one.example"}, "relay_token_file": secret + "x"}, "", "relay_token_file: "},
		{map[string]any{"relays": []string{"https://one.example"}, "relay_token_file": secret, "relay_token": "b"}, "", "both set"},
		{map[string]any{"relays": []string{"https://one.example", "https://two.example"}, "relay_token": "sesame"}, "", "exactly one"},
		{map[string]any{"relays": []string{"none"}, "relay_token": "sesame"}, "", "exactly one"},
		{map[string]any{"relay_token": "sesame"}, "", "exactly one"},
		{map[string]any{"relays": []string{"https://one.example"}, "relay_token": "a b"}, "", "no header"},
	} {
		s := Default()
		for key, value := range test.set {
			if err := s.Set(key, value); err != nil {
				t.Fatal(err)
			}
		}
		token, relay, err := s.Token()
		if token != test.token || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%v: %q, %v", test.set, token, err)
		}
		if token != "" && relay != s.Relays[0] {
			t.Errorf("%v: for %v", test.set, relay)
		}
	}
}
