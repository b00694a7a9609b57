package relayserver

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/iroh1"
)

func TestAccessIncomplete(t *testing.T) {
	for _, a := range []Access{
		{Mode: AccessToken},
		{Mode: AccessToken, Tokens: []string{"good", ""}},
		{Mode: AccessHTTP},
		{Mode: AccessHTTP, URL: "ftp://example.com"},
		{Mode: AccessHTTP, URL: "/path"},
		{Mode: 99},
	} {
		if _, err := New(Config{Dev: true, Access: a}); err == nil {
			t.Errorf("%+v is taken", a)
		}
	}
}

// enters reports whether a node gets in by the protocol of iroh-net 0.28 and by that
// of iroh 1.x; both must agree.
func enters(t *testing.T, s *Server, key *identity.SecretKey, path string, header http.Header) bool {
	t.Helper()
	r := dialRaw(t, s)
	request := "GET " + path + " HTTP/1.1\r\nUpgrade: iroh derp http\r\nHost: localhost\r\n"
	for name, values := range header {
		request += name + ": " + values[0] + "\r\n"
	}
	r.write([]byte(request + "\r\n"))
	response, err := http.ReadResponse(r.br, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response, err)
	}
	r.write(relay.AppendClientInfo(nil, key))
	r.write(relay.AppendPing(nil, [8]byte{1}))
	kind, _ := r.next()
	in3 := kind == relay.TypePong

	c, _, err := dialIroh1At(t, s, path, header, nil, iroh1.SubprotocolV2)
	if err != nil {
		t.Fatal(err)
	}
	var challenge [iroh1.ChallengeLen]byte
	copy(challenge[:], c.expect(iroh1.TypeServerChallenge))
	c.write(iroh1.AppendClientAuth(nil, key, challenge))
	_, message, err := c.conn.Read(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	kind1, _, err := iroh1.Parse(message)
	if err != nil {
		t.Fatal(err)
	}
	if in1 := kind1 == iroh1.TypeServerConfirmsAuth; in1 != in3 {
		t.Errorf("version 3: %v, 1.x: %v", in3, in1)
	}
	return in3
}

func TestAccessToken(t *testing.T) {
	s := start(t, Config{Access: Access{Mode: AccessToken, Tokens: []string{"first", "second"}}})
	for _, test := range []struct {
		path, header string
		in           bool
	}{
		{"/relay", "Bearer first", true},
		{"/relay", "Bearer second", true},
		{"/relay", "bearer second", true},
		{"/relay?token=first", "", true},
		{"/relay", "", false},
		{"/relay", "Bearer third", false},
		{"/relay", "Bearer firs", false},
		{"/relay", "Bearer ", false},
		{"/relay", "Basic first", false},
		{"/relay?token=", "", false},
		{"/relay?token=first", "Bearer third", false}, // the header counts
	} {
		header := http.Header{}
		if test.header != "" {
			header.Set("Authorization", test.header)
		}
		if in := enters(t, s, newKey(), test.path, header); in != test.in {
			t.Errorf("%s with %q: %v", test.path, test.header, in)
		}
	}
}

func TestAccessHTTP(t *testing.T) {
	friend := newKey()
	var mu sync.Mutex
	answers := map[string]func(http.ResponseWriter){
		friend.NodeID().Hex(): func(w http.ResponseWriter) { _, _ = io.WriteString(w, "true") },
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer sesame" {
			t.Errorf("%s, %v", r.Method, r.Header)
		}
		mu.Lock()
		answer := answers[r.Header.Get("X-Iroh-NodeId")]
		mu.Unlock()
		if answer == nil {
			t.Errorf("asked for %q", r.Header.Get("X-Iroh-NodeId"))
			return
		}
		answer(w)
	}))
	defer web.Close()
	s := start(t, Config{Access: Access{Mode: AccessHTTP, URL: web.URL, BearerToken: "sesame"}})
	if !enters(t, s, friend, "/relay", nil) {
		t.Error("a friend stays out")
	}
	for name, answer := range map[string]func(http.ResponseWriter){
		"false":       func(w http.ResponseWriter) { _, _ = io.WriteString(w, "false") },
		"true and on": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "true\n") },
		"empty":       func(http.ResponseWriter) {},
		"201 true":    func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated); _, _ = io.WriteString(w, "true") },
		"500 true": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "true")
		},
		"redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", web.URL+"/else")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"broken": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		stranger := newKey()
		mu.Lock()
		answers[stranger.NodeID().Hex()] = answer
		mu.Unlock()
		if enters(t, s, stranger, "/relay", nil) {
			t.Errorf("%s lets in", name)
		}
	}
	web.Close()
	if enters(t, s, friend, "/relay", nil) {
		t.Error("a server that does not answer lets in")
	}
}

func TestLoad(t *testing.T) {
	id := newKey().NodeID()
	dir := t.TempDir()
	load := func(content string, mode os.FileMode) (Config, error) {
		t.Helper()
		path := filepath.Join(dir, "relay.toml")
		_ = os.Remove(path)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return Load(path)
	}
	for _, test := range []struct {
		content string
		want    Config
	}{
		{"", Config{MetricsAddr: "127.0.0.1:9090"}},
		{
			"enable_relay = true\nhttp_bind_addr = \"[::]:8080\"\nenable_stun = false\nenable_metrics = false\naccess = \"everyone\"\nrequire_challenge = true\nhosts = [\"relay.example:8080\"]\nlogins_file = \"/l\"\n",
			Config{Addr: "[::]:8080", STUNAddr: "none", Access: Access{Mode: AccessEveryone}, RequireChallenge: true, Hosts: []string{"relay.example:8080"}, LoginsFile: "/l"},
		},
		{
			"stun_bind_addr = \"1.2.3.4:3478\"\nmetrics_bind_addr = \"10.0.0.1:9\"\naccess.allowlist = [\"" + id.String() + "\"]\n" +
				"[tls]\nhostname = [\"one.example\", \"two.example\"]\ncert_mode = \"LetsEncrypt\"\ncert_dir = \"/c\"\nprod_tls = false\ncontact = \"me@example\"\nhttps_bind_addr = \":8443\"\n",
			Config{
				Addr: ":8443", CaptiveAddr: ":80", STUNAddr: "1.2.3.4:3478", MetricsAddr: "10.0.0.1:9", Hosts: []string{"one.example", "two.example"},
				Access: Access{Mode: AccessAllow, Nodes: []identity.NodeID{id}},
				ACME:   &ACME{Hosts: []string{"one.example", "two.example"}, Contact: "me@example", CacheDir: "/c", DirectoryURL: stagingURL},
			},
		},
		{
			"http_bind_addr = \":81\"\naccess.shared_token = [\"a\", \"b\"]\n[tls]\ncert_mode = \"Manual\"\n[limits]\naccept_conn_limit = 5\naccept_conn_burst = 6\nconns = 7\n" +
				"conns_per_prefix = 8\nlogins_per_second = 9\nstun_per_second = 10\n[limits.client.rx]\nbytes_per_second = 11\nmax_burst_bytes = 12\n[limits.total]\nrx = {bytes_per_second = 13, max_burst_bytes = 14}\n",
			Config{
				CaptiveAddr: ":81", CertFile: "default.crt", KeyFile: "default.key", MetricsAddr: "127.0.0.1:9090",
				Access: Access{Mode: AccessToken, Tokens: []string{"a", "b"}},
				Limits: Limits{
					AcceptsPerSecond: 5, AcceptBurst: 6, Conns: 7, ConnsPerPrefix: 8, LoginsPerSecond: 9, STUNPerSecond: 10,
					ReceivePerClient: 11, ReceiveBurst: 12, ReceiveTotal: 13, ReceiveTotalBurst: 14,
				},
			},
		},
		{
			"[access.http]\nurl = \"https://example/ask\"\nbearer_token = \"t\"\n[tls]\ncert_mode = \"Reloading\"\nmanual_cert_path = \"/x.crt\"\nmanual_key_path = \"/x.key\"\nhostname = \"r.example\"\n",
			Config{
				CaptiveAddr: ":80", CertFile: "/x.crt", KeyFile: "/x.key", MetricsAddr: "127.0.0.1:9090", Hosts: []string{"r.example"},
				Access: Access{Mode: AccessHTTP, URL: "https://example/ask", BearerToken: "t"},
			},
		},
		{"access.denylist = []\n", Config{MetricsAddr: "127.0.0.1:9090", Access: Access{Mode: AccessDeny}}},
	} {
		got, err := load(test.content, 0o600)
		if err != nil {
			t.Errorf("%s: %v", test.content, err)
		} else if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s\n got %+v\nwant %+v", test.content, got, test.want)
		}
	}
	for content, want := range map[string]string{
		"http_bind_adr = 1\n":            "relay.toml:1: unknown key http_bind_adr",
		"\n[tls]\ncert = 1\n":            "relay.toml:3: unknown key tls.cert",
		"enable_stun = 3\n":              "relay.toml:1: enable_stun: must be true or false",
		"hosts = \"a\"\n":                "relay.toml:1: hosts: must be a list such as",
		"hosts = [1]\n":                  "relay.toml:1: hosts: must be a list such as",
		"http_bind_addr = 80\n":          "relay.toml:1: http_bind_addr: must be text in quotes",
		"limits.client.rx = 3\n":         "relay.toml:1: limits.client.rx: must be a table",
		"[limits]\nconns = \"many\"\n":   "relay.toml:2: limits.conns: must be a whole number",
		"[limits]\nconns = 1.5\n":        "relay.toml:2: limits.conns: must be a whole number",
		"tls = 3\n":                      "relay.toml:1: tls: must be a table",
		"[[limits]]\n":                   "relay.toml:1: limits: must be a table",
		"[hosts]\n":                      "relay.toml:1: hosts: must be a list such as",
		"access = \n":                    "relay.toml:1: ",
		"enable_relay = false\n":         "leaves nothing to do",
		"access = \"all\"\n":             `access "all" is unknown`,
		"access = 3\n":                   "access 3 is unknown",
		"access.friends = []\n":          "access.friends is unknown",
		"access.allowlist = [\"x\"]\n":   "access.allowlist ",
		"access.allowlist = [1]\n":       "must be a list of texts",
		"access.shared_token = true\n":   "must be a text or a list of texts",
		"access.http = {}\n":             "access.http needs a url",
		"[tls]\n":                        "tls.cert_mode is missing",
		"tls.cert_mode = \"x\"\n":        `tls.cert_mode "x" is unknown`,
		"tls.cert_mode=\"LetsEncrypt\"":  "tls.hostname is needed",
		"tls.hostname = 3\n":             "tls.hostname must be",
		"access = {http=1, denylist=[]}": "access has 2 keys",
	} {
		if _, err := load(content, 0o600); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", content, err, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "none.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	// S5: a file with a secret that others can read is refused.
	for _, secret := range []string{"access.shared_token = \"s\"\n", "access.http = {url = \"http://x\", bearer_token = \"s\"}\n"} {
		if _, err := load(secret, 0o644); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Error(err)
		}
	}
	if _, err := load("access = \"everyone\"\n", 0o644); err != nil {
		t.Error(err)
	}
}

// The names of the metrics are those that dashboards for iroh's relay look for.
func TestMetricNames(t *testing.T) {
	s := devServer(t)
	t.Cleanup(s.Close)
	var names []string
	for _, m := range s.Metrics() {
		names = append(names, m.Name)
		if m.Help == "" {
			t.Errorf("%s is not explained", m.Name)
		}
	}
	for _, want := range []string{
		"relayserver_bytes_sent_total", "relayserver_bytes_recv_total", "relayserver_send_packets_sent_total", "relayserver_send_packets_recv_total",
		"relayserver_send_packets_dropped_total", "relayserver_got_ping_total", "relayserver_accepts_total", "relayserver_disconnects_total",
		"relayserver_frames_rx_ratelimited_total", "relayserver_conns_rx_ratelimited_total", "stun_requests_total", "stun_ipv4_success_total", "stun_bad_requests_total",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s", want)
		}
	}
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("a name twice: %v", names)
	}
}
