package relayserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// challenged upgrades and returns the challenge that the server offers to a client
// that says it dialled host; nil for none.
func (r *raw) challenged(host string) *relay.Challenge {
	r.t.Helper()
	r.write([]byte(strings.Replace(upgradeRequest, "Host:", relay.LoginHeader+": "+host+"\r\nHost:", 1)))
	response, err := http.ReadResponse(r.br, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		r.t.Fatal(response, err)
	}
	return parseChallenge(r.t, response.Header, host)
}

func parseChallenge(t testing.TB, h http.Header, host string) *relay.Challenge {
	t.Helper()
	text := h.Get(relay.ChallengeHeader)
	if text == "" {
		return nil
	}
	c := &relay.Challenge{Host: host}
	if n, err := hex.Decode(c.Data[:], []byte(text)); err != nil || n != len(c.Data) {
		t.Fatalf("challenge %q", text)
	}
	return c
}

func challengeLogin(t testing.TB, key *identity.SecretKey, c relay.Challenge) []byte {
	t.Helper()
	login, err := relay.AppendChallengeLogin(nil, key, c)
	if err != nil {
		t.Fatal(err)
	}
	return login
}

// logInFresh logs in by challenge and returns the login as well.
func logInFresh(t testing.TB, s *Server, key *identity.SecretKey) (*raw, []byte) {
	t.Helper()
	r := dialRaw(t, s)
	c := r.challenged(s.Addr().String())
	if c == nil {
		t.Fatal("no challenge")
	}
	login := challengeLogin(t, key, *c)
	r.write(login)
	r.sync()
	return r, login
}

// refused says that the server ends the connection with these words.
func (r *raw) refused(words string) {
	r.t.Helper()
	if text := string(r.expect(relay.TypeHealth)); text != words {
		r.t.Errorf("%q", text)
	}
	r.ended()
}

const wantsChallenge = "this relay wants its challenge answered"

// A node that answers a challenge takes its place at once: its old connection may
// be one that a NAT forgot, and alive as far as this relay can tell. If it lives, it
// is that of another machine, which is told and gets the place back.
func TestFreshLoginReplaces(t *testing.T) {
	s := start(t, Config{})
	key, other := newKey(), newKey()
	friend := logIn(t, s, other)
	var machines []*raw
	for range 3 {
		r, _ := logInFresh(t, s, key)
		machines = append(machines, r)
	}
	for _, r := range machines[:2] {
		if text := string(r.expect(relay.TypeHealth)); text != relay.HealthElsewhere {
			t.Errorf("%q", text)
		}
		r.send(other, []byte("still here")) // it may send
		friend.expectPacket(key, []byte("still here"))
	}
	for i := 2; i >= 0; i-- {
		friend.send(key, []byte("hello"))
		machines[i].expectPacket(other, []byte("hello"))
		_ = machines[i].conn.Close()
		if i > 0 { // the youngest that waits is next
			if text := string(machines[i-1].expect(relay.TypeHealth)); text != relay.HealthBack {
				t.Errorf("%q", text)
			}
		}
	}
	if body := friend.expect(relay.TypePeerGone); !bytes.Equal(body, relay.AppendPeerGone(nil, key.NodeID())[relay.HeaderLen:]) {
		t.Errorf("%x is gone", body)
	}
	if c := s.Counters(); c.ReplacedRefused != 0 || c.Clients != 1 || c.Accepts != 4 {
		t.Errorf("%+v", c)
	}
}

// One key does not fill the relay with connections that wait.
func TestSparesAreBounded(t *testing.T) {
	s := start(t, Config{})
	key := newKey()
	var machines []*raw
	for range maxSpares + 3 {
		r, _ := logInFresh(t, s, key)
		machines = append(machines, r)
	}
	for i, r := range machines {
		if i < 2 {
			r.ended()
		} else if i < len(machines)-1 {
			r.expect(relay.TypeHealth)
		}
	}
}

// S2: whoever saw a login by challenge cannot use it on another connection, with
// or without a challenge of its own.
func TestChallengeLoginIsNoReplay(t *testing.T) {
	s := start(t, Config{})
	key := newKey()
	victim, seen := logInFresh(t, s, key)
	for _, ask := range []bool{true, false} {
		thief := dialRaw(t, s)
		if ask {
			thief.challenged(s.Addr().String())
		} else {
			thief.upgrade()
		}
		thief.write(seen)
		thief.ended()
	}
	victim.sync()
	if c := s.Counters(); c.LoginFailures != 2 || c.Clients != 1 {
		t.Errorf("%+v", c)
	}
}

// S2: a node that once answered a challenge does not come by what can be replayed,
// also after a restart and when its connection is gone.
func TestProvenNodesAreNotReplayed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "relay", "logins")
	key, simple := newKey(), newKey()
	s := start(t, Config{LoginsFile: file})
	gone, _ := logInFresh(t, s, key)
	_ = gone.conn.Close()
	for range 2 {
		thief := dialRaw(t, s)
		thief.upgrade()
		thief.write(relay.AppendClientInfo(nil, key))
		thief.refused(wantsChallenge)
		logIn(t, s, simple) // a node of iroh-net is welcome
		if c := s.Counters(); c.LoginsReplayable != 1 || c.LoginFailures != 0 {
			t.Errorf("%+v", c)
		}
		s = start(t, Config{LoginsFile: file})
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestRequireChallenge(t *testing.T) {
	s := start(t, Config{RequireChallenge: true})
	r := dialRaw(t, s)
	r.upgrade()
	r.write(relay.AppendClientInfo(nil, newKey()))
	r.refused(wantsChallenge)
	logInFresh(t, s, newKey())
}

// S1: a hostile relay that passes our challenge on to a client of its own gets a
// signature for its own name. Under that name it is offered no challenge, and
// under ours the signature does not fit.
func TestChallengeIsForOneRelay(t *testing.T) {
	s := start(t, Config{})
	key := newKey()
	hostile := dialRaw(t, s)
	if c := hostile.challenged("evil.example:443"); c != nil {
		t.Error("a challenge for another relay's name")
	}
	hostile = dialRaw(t, s)
	c := hostile.challenged(s.Addr().String())
	hostile.write(challengeLogin(t, key, relay.Challenge{Host: "evil.example:443", Data: c.Data}))
	hostile.ended()
	if c := s.Counters(); c.LoginFailures != 1 || c.Clients != 0 {
		t.Errorf("%+v", c)
	}
}

func TestWebSocketChallenge(t *testing.T) {
	s := start(t, Config{RequireChallenge: true})
	host := s.Addr().String()
	conn, response, err := websocket.Dial(t.Context(), "ws://"+host+"/relay", &websocket.DialOptions{
		HTTPHeader: http.Header{relay.LoginHeader: {host}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	c := parseChallenge(t, response.Header, host)
	if c == nil {
		t.Fatal("no challenge")
	}
	for _, frame := range [][]byte{challengeLogin(t, newKey(), *c), relay.AppendPing(nil, [8]byte{1})} {
		if err := conn.Write(t.Context(), websocket.MessageBinary, relay.Message(frame)); err != nil {
			t.Fatal(err)
		}
	}
	_, got, err := conn.Read(t.Context())
	if want := relay.Message(relay.AppendPong(nil, [8]byte{1})); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v", got, err)
	}
}

func TestNames(t *testing.T) {
	local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 3340}
	loopback := &net.TCPAddr{IP: net.IPv6loopback, Port: 3340}
	cert := &tls.Config{Certificates: []tls.Certificate{{Leaf: &x509.Certificate{
		DNSNames: []string{"relay.example", "*.relays.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 7)},
	}}}}
	for _, test := range []struct {
		name, dialled string
		cfg           Config
		local         net.Addr
		want          bool
	}{
		{"own address", "192.0.2.1:3340", Config{}, local, true},
		{"own IPv6 address", "[::1]:3340", Config{}, loopback, true},
		{"another port", "192.0.2.1:3341", Config{}, local, false},
		{"another address", "192.0.2.2:3340", Config{}, local, false},
		{"loopback by name", "localhost:3340", Config{}, loopback, true},
		{"loopback by name, another port", "localhost:1", Config{}, loopback, false},
		{"not loopback", "localhost:3340", Config{}, local, false},
		{"some name", "relay.example:3340", Config{}, local, false},
		{"told", "relay.example:3340", Config{Hosts: []string{"Relay.example"}}, local, true},
		{"told with port", "relay.example:3340", Config{Hosts: []string{"relay.example:3340"}}, local, true},
		{"told with another port", "relay.example:443", Config{Hosts: []string{"relay.example:3340"}}, local, false},
		{"certificate", "relay.example:443", Config{TLS: cert}, local, true},
		{"certificate, any", "eu.relays.example:443", Config{TLS: cert}, local, true},
		{"certificate, address", "192.0.2.7:443", Config{TLS: cert}, local, true},
		{"not in the certificate", "192.0.2.1:3340", Config{TLS: cert}, local, false},
		{"capitals", "RELAY.example:443", Config{TLS: cert}, local, false},
		{"no port", "relay.example", Config{TLS: cert}, local, false},
		{"too long", strings.Repeat("a", 252) + ":443", Config{Hosts: []string{strings.Repeat("a", 252)}}, local, false},
		{"no address", "192.0.2.1:3340", Config{}, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNames(&test.cfg)
			if got := n.has(test.dialled, test.local); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
