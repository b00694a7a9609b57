package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// Whatever the host was told to talk to is known by address.
func TestContacts(t *testing.T) {
	dir := t.TempDir()
	before := leases
	leases = []string{filepath.Join(dir, "*")}
	t.Cleanup(func() { leases = before })
	for name, content := range map[string]string{
		"networkd": "# Private\nADDRESS=10.0.0.5\nSERVER_ADDRESS=100.100.2.1\n",
		"dhclient": "lease {\n  interface \"eth0\";\n  option dhcp-server-identifier 100.100.2.2;\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	relay, err := identity.ParseRelayURL("https://198.18.0.3/")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{}
	d.cfg.Settings = config.Default()
	d.cfg.Settings.Relays = []identity.RelayURL{relay}
	d.cfg.Settings.STUN = []string{"198.18.0.4:3478", "stun.example.com:3478"}
	d.peers = []config.Peer{{Name: "nas", Addrs: []netip.AddrPort{netip.MustParseAddrPort("198.18.0.5:41820")}}}
	var got []string
	for _, c := range d.contacts() {
		got = append(got, c.what+" "+c.addr.String())
	}
	for _, want := range []string{
		"the DHCP server 100.100.2.1", "the DHCP server 100.100.2.2", "the relay 198.18.0.3", "the STUN server 198.18.0.4", "nas's address 198.18.0.5",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
}

// An address at which the engine could not reach a peer is refused, and the words say why.
func TestAddressesOfPeers(t *testing.T) {
	s := store{filter: nodemap.Filter{TUN: prefixesOf("fd6e:6f64:6574::/48", "198.18.0.0/16")}}
	id := identity.GenerateSecretKey().NodeID().String()
	for addr, refused := range map[string]string{
		"198.18.5.5:41820": "inside the tunnel", "[::ffff:198.18.5.5]:41820": "inside the tunnel", "[fd6e:6f64:6574::5]:41820": "inside the tunnel",
		"127.0.0.1:41820": "leads back", "[::1]:41820": "leads back", "0.0.0.0:41820": "not the address of a machine", "192.0.2.1:0": "not the address of a machine",
		"224.0.0.1:41820": "not the address of a machine", "255.255.255.255:41820": "not the address of a machine", "[fe80::5]:41820": "needs the link",
		"[fe80::5%nosuch0]:41820": "does not have", "[2001:db8::5%lo]:41820": "one link only",
		"198.19.5.5:41820": "", "[2001:db8::5]:41820": "", "[fe80::5%lo]:41820": "", "169.254.7.7:41820": "", "10.0.0.5:41820": "", "[fd00::5]:41820": "",
	} {
		_, _, err := s.parse(localapi.AddRequest{Peer: id, Addrs: []string{addr}})
		if (err != nil) != (refused != "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Errorf("%s: %v, want %q", addr, err, refused)
		}
	}
}

func prefixesOf(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
