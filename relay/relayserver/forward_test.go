package relayserver

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

func TestForward(t *testing.T) {
	s := start(t, Config{})
	a, b := newKey(), newKey()
	ra, rb := logIn(t, s, a), logIn(t, s, b)
	for _, test := range []struct {
		name    string
		payload []byte
	}{
		{"batch", []byte("\x05\x00Hello\x06\x00World!")},
		{"truncated batch", []byte("\x05\x00Hello\x06\x00Wor")}, // the receiver judges
		{"empty", nil},
		{"longest", bytes.Repeat([]byte{7}, relay.MaxPayload)},
	} {
		t.Run(test.name, func(t *testing.T) {
			ra.send(b, test.payload)
			rb.expectPacket(a, test.payload)
			rb.send(a, test.payload)
			ra.expectPacket(b, test.payload)
		})
	}
	ra.send(a, []byte("to myself"))
	ra.expectPacket(a, []byte("to myself"))
	// A packet may arrive before its sender's side has counted it.
	ra.sync()
	rb.sync()
	c := s.Counters()
	if c.Clients != 2 || c.Accepts != 2 || c.PacketsReceived != 9 || c.PacketsQueued != 9 || c.PacketsDropped != 0 {
		t.Errorf("%+v", c)
	}
}

// Packets for nobody vanish without a word, and do not disturb.
func TestUnknownDestination(t *testing.T) {
	s := start(t, Config{})
	r := logIn(t, s, newKey())
	for range 10 {
		r.send(newKey(), []byte("hello?"))
	}
	r.sync()
	if c := s.Counters(); c.UnknownDest != 10 || c.PacketsDropped != 0 {
		t.Errorf("%+v", c)
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	s := start(t, Config{})
	for name, frame := range map[string][]byte{
		"type 9":             {9, 0, 0, 0, 0},
		"ping of 7":          {12, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7},
		"payload of 65537":   {4, 0, 1, 0, 33},
		"2 MiB":              {4, 0, 0x20, 0, 0},
		"preferred neither":  {7, 0, 0, 0, 1, 2},
		"packet without key": {4, 0, 0, 0, 3, 1, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := logIn(t, s, newKey())
			r.write(frame)
			r.ended()
		})
	}
}

// Frames that only servers send are counted and ignored.
func TestOddFramesAreIgnored(t *testing.T) {
	s := start(t, Config{})
	key := newKey()
	r := logIn(t, s, key)
	r.write(relay.AppendNotePreferred(nil, true))
	r.write(relay.AppendKeepAlive(nil))
	r.write(relay.AppendHealth(nil, "I am fine"))
	r.write(relay.AppendPeerGone(nil, key.NodeID()))
	r.write(relay.AppendPong(nil, [8]byte{}))
	r.write(relay.AppendPacket(nil, relay.TypeRecvPacket, key.NodeID(), nil))
	r.write(relay.AppendClientInfo(nil, newKey()))
	r.sync()
	if c := s.Counters(); c.UnknownFrames != 5 || c.Pongs != 1 {
		t.Errorf("%+v", c)
	}
}

func TestBadLogins(t *testing.T) {
	s := start(t, Config{})
	good := relay.AppendClientInfo(nil, newKey())
	forged := bytes.Clone(good)
	forged[40] ^= 1
	for name, first := range map[string][]byte{
		"not a login":   relay.AppendPing(nil, [8]byte{}),
		"bad signature": forged,
		// The version is what is signed, so no second version can be made here;
		// a message that does not verify ends it as well.
		"version 2": append(bytes.Clone(good[:len(good)-1]), 2),
	} {
		t.Run(name, func(t *testing.T) {
			r := dialRaw(t, s)
			r.upgrade()
			r.write(first)
			r.ended()
		})
	}
	if c := s.Counters(); c.LoginFailures != 3 || c.Accepts != 0 {
		t.Errorf("%+v", c)
	}
}

// A server that finds bytes behind the request gives up, as iroh's do.
func TestBytesBehindTheRequest(t *testing.T) {
	s := start(t, Config{})
	r := dialRaw(t, s)
	r.write(append([]byte(upgradeRequest), relay.AppendClientInfo(nil, newKey())...))
	r.ended()
	if c := s.Counters(); c.Accepts != 0 {
		t.Errorf("%+v", c)
	}
}

func TestPeerGone(t *testing.T) {
	s := start(t, Config{})
	a, b, c := newKey(), newKey(), newKey()
	ra, rb, rc := logIn(t, s, a), logIn(t, s, b), logIn(t, s, c)
	ra.send(b, []byte("hello"))
	rb.expectPacket(a, []byte("hello"))
	_ = ra.conn.Close()
	id, err := relay.ParsePeerGone(rb.expect(relay.TypePeerGone))
	if err != nil || id != a.NodeID() {
		t.Errorf("%v, %v", id, err)
	}
	rc.sync() // was sent nothing, and is told nothing
}

func TestUpgradeAnswer(t *testing.T) {
	s := start(t, Config{})
	r := dialRaw(t, s)
	h := r.upgrade().Header
	for name, want := range map[string]string{
		"Upgrade":                   "iroh derp http",
		"Strict-Transport-Security": strictTransport,
		"Content-Security-Policy":   contentPolicy,
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestEndpoints(t *testing.T) {
	s := start(t, Config{})
	for _, test := range []struct {
		method, path string
		header       [2]string
		status       int
		body         string
		answer       [2]string
	}{
		{"GET", "/", [2]string{}, 200, "Iroh relay", [2]string{"Content-Type", "text/html; charset=utf-8"}},
		{"GET", "/index.html", [2]string{}, 200, "Iroh relay", [2]string{}},
		{"GET", "/robots.txt", [2]string{}, 200, "User-agent: *\nDisallow: /\n", [2]string{}},
		{"GET", "/ping", [2]string{}, 200, "", [2]string{"Access-Control-Allow-Origin", "*"}},
		{"GET", "/relay/probe", [2]string{}, 200, "", [2]string{"Access-Control-Allow-Origin", "*"}},
		{"GET", "/derp/probe", [2]string{}, 200, "", [2]string{"Access-Control-Allow-Origin", "*"}},
		{"GET", "/generate_204", [2]string{}, 204, "", [2]string{"X-Tailscale-Response", ""}},
		{"GET", "/generate_204", [2]string{"X-Tailscale-Challenge", "ts_a.B-9"}, 204, "", [2]string{"X-Tailscale-Response", "response ts_a.B-9"}},
		{"GET", "/generate_204", [2]string{"X-Tailscale-Challenge", "a b"}, 204, "", [2]string{"X-Tailscale-Response", ""}},
		{"GET", "/generate_204", [2]string{"X-Tailscale-Challenge", strings.Repeat("a", 64)}, 204, "", [2]string{"X-Tailscale-Response", ""}},
		{"GET", "/relay", [2]string{}, 400, "", [2]string{"Content-Security-Policy", contentPolicy}},
		{"GET", "/relay", [2]string{"Upgrade", "DERP"}, 400, "", [2]string{}},
		{"GET", "/relay", [2]string{"Upgrade", "websocket"}, 400, "", [2]string{}},
		{"GET", "/nothing", [2]string{}, 404, "Not Found", [2]string{"Strict-Transport-Security", strictTransport}},
		{"HEAD", "/", [2]string{}, 404, "", [2]string{}},
		{"POST", "/relay", [2]string{}, 404, "Not Found", [2]string{}},
	} {
		t.Run(test.method+test.path+test.header[1], func(t *testing.T) {
			request, err := http.NewRequest(test.method, "http://"+s.Addr().String()+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Close = true
			if test.header[0] != "" {
				request.Header.Set(test.header[0], test.header[1])
			}
			response, err := http.DefaultTransport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != test.status || !strings.Contains(string(body), test.body) || test.body == "" && len(body) > 0 {
				t.Errorf("%s %q", response.Status, body)
			}
			if got := response.Header.Get(test.answer[0]); got != test.answer[1] {
				t.Errorf("%s: %q", test.answer[0], got)
			}
		})
	}
}

func TestWebSocket(t *testing.T) {
	s := start(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a, b := newKey(), newKey()
	conn, _, err := websocket.Dial(ctx, "ws://"+s.Addr().String()+"/derp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	write := func(frame []byte) {
		t.Helper()
		if err := conn.Write(ctx, websocket.MessageBinary, relay.Message(frame)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (relay.Type, []byte) {
		t.Helper()
		conn.SetReadLimit(relay.MaxFrame)
		kind, message, err := conn.Read(ctx)
		if err != nil || kind != websocket.MessageBinary {
			t.Fatal(kind, err)
		}
		typ, body, err := relay.ParseMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		return typ, body
	}
	write(relay.AppendClientInfo(nil, a))
	if err := conn.Write(ctx, websocket.MessageText, []byte("skipped")); err != nil {
		t.Fatal(err)
	}
	write(relay.AppendPing(nil, [8]byte{1}))
	if typ, body := read(); typ != relay.TypePong || body[0] != 1 {
		t.Fatal(typ, body)
	}
	rb := logIn(t, s, b)
	payload := bytes.Repeat([]byte{5}, relay.MaxPayload)
	write(relay.AppendPacket(nil, relay.TypeSendPacket, b.NodeID(), payload))
	rb.expectPacket(a, payload)
	for range 3 {
		rb.send(a, payload)
	}
	for range 3 {
		typ, body := read()
		src, got, err := relay.ParsePacket(body)
		if typ != relay.TypeRecvPacket || src != b.NodeID() || !bytes.Equal(got, payload) || err != nil {
			t.Fatal(typ, src, len(got), err)
		}
	}
	if c := s.Counters(); c.WebSocketAccepts != 1 || c.Clients != 2 {
		t.Errorf("%+v", c)
	}
	_ = conn.Write(ctx, websocket.MessageBinary, nil) // an empty message is an error
	if _, _, err := conn.Read(ctx); err == nil {
		t.Error("the connection goes on")
	}
}

// A client that does not read loses its own packets, is dropped when its
// socket takes nothing for 2 s, and holds up nobody: even if it is never dropped.
func TestSlowReader(t *testing.T) {
	for _, stall := range []time.Duration{writeStall, time.Hour} {
		t.Run(stall.String(), func(t *testing.T) {
			s := unstarted(t, Config{})
			s.stall = stall
			run(t, s)
			sender, slow, quick := newKey(), newKey(), newKey()
			rs := logIn(t, s, sender)
			logIn(t, s, slow) // never reads again
			rq := logIn(t, s, quick)
			payload := make([]byte, 60_000)
			for range 400 { // 24 MB
				rs.send(slow, payload)
			}
			rs.send(quick, []byte("quick"))
			rq.expectPacket(sender, []byte("quick"))
			rs.sync()
			if c := s.Counters(); c.PacketsDropped < 100 {
				t.Errorf("%d packets dropped", c.PacketsDropped)
			}
			if stall > writeStall {
				if s.registry.get(slow.NodeID()) == nil {
					t.Error("the slow reader was dropped")
				}
				return
			}
			for begin := time.Now(); s.registry.get(slow.NodeID()) != nil; time.Sleep(10 * time.Millisecond) {
				if time.Since(begin) > patience {
					t.Fatal("the slow reader stays")
				}
			}
		})
	}
}

// Clients are told the end of the relay by the end of their connections, and
// what was queued still arrives.
func TestShutdown(t *testing.T) {
	s, err := New(Config{Addr: "127.0.0.1:0", STUNAddr: "none", Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	var all []*raw
	for range 5 {
		all = append(all, logIn(t, s, newKey()))
	}
	dialRaw(t, s) // never asks for anything
	cancel()
	begin := time.Now()
	for _, r := range all {
		after, tryFor, err := relay.ParseRestarting(r.expect(relay.TypeRestarting))
		if err != nil || after < restartAfter || after >= restartAfter+restartSpread || tryFor != restartTry {
			t.Errorf("come back after %v, try for %v, %v", after, tryFor, err)
		}
		r.ended()
		_ = r.conn.Close()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d >= headTimeout { // that of the one which asks for nothing
		t.Errorf("took %v", d)
	}
	if _, err := s.registry.swap(nil, &client{id: identity.NodeID{}}); !err {
		t.Error("clients are left")
	}
}
