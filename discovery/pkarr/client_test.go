package pkarr

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// server is a pkarr server in memory, as an http.RoundTripper.
type server struct {
	t *testing.T

	mu      sync.Mutex
	packets map[string]Packet
	puts    []time.Time
	refuse  func(*http.Request) *http.Response // nil, or what it returns nil for: goes on
	quiet   bool                               // answers 204 to old packets too, as iroh's server does
}

func answer(status int, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	z32 := strings.TrimPrefix(req.URL.Path, "/pkarr/")
	if req.Method == http.MethodPut {
		s.puts = append(s.puts, time.Now())
	}
	if s.refuse != nil {
		if res := s.refuse(req); res != nil {
			return res, nil
		}
	}
	old, have := s.packets[z32]
	if req.Method == http.MethodGet {
		if !have {
			return answer(http.StatusNotFound, nil), nil
		}
		return answer(http.StatusOK, old.Payload()), nil
	}
	body, _ := io.ReadAll(req.Body)
	p, err := Parse(testKey(s.t, 0x2a).NodeID(), body)
	if err != nil || p.ID().Z32() != z32 {
		s.t.Errorf("PUT of %q: %v", z32, err)
	}
	if have && old.NewerThan(p) {
		if s.quiet {
			return answer(http.StatusNoContent, nil), nil
		}
		return answer(http.StatusConflict, nil), nil
	}
	if s.packets == nil {
		s.packets = make(map[string]Packet)
	}
	s.packets[z32] = p
	return answer(http.StatusNoContent, nil), nil
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.puts)
}

func (s *server) has(key *identity.SecretKey) Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packets[key.NodeID().Z32()]
}

func (s *server) client() Client {
	return Client{URL: "https://discovery.test/pkarr/", HTTP: &http.Client{Transport: s}}
}

// start runs a publisher until the test ends.
func start(t *testing.T, s *server, signer *Signer) *Publisher {
	t.Helper()
	p := NewPublisher(s.client(), Republish, signer, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, s := testKey(t, 0x2a), &server{t: t}
		p := start(t, s, NewSigner(key, 0, nil))
		at := func(relay string) identity.NodeAddr {
			return identity.NodeAddr{ID: key.NodeID(), Relay: relayURL(t, relay)}
		}
		time.Sleep(time.Hour)
		if s.count() != 0 {
			t.Error("published without anything to say")
		}
		p.Publish(at("https://a.example"))
		synctest.Wait()
		if got := s.has(key).Addr().Relay.String(); got != "https://a.example./" {
			t.Errorf("published %q", got)
		}
		if st := p.Status(); st.Err != nil || !st.Last.Equal(time.Now()) {
			t.Errorf("%+v", st)
		}
		// Many changes become few packets; the last one counts.
		began, before := time.Now(), s.count()
		for range 100 {
			p.Publish(at("https://b.example"))
			synctest.Wait()
			p.Publish(at("https://c.example"))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(refill)
		if n := s.count() - before; n > burst+int(time.Since(began)/refill) {
			t.Errorf("%d packets in %v", n, time.Since(began))
		}
		if got := s.has(key).Addr().Relay.String(); got != "https://c.example./" {
			t.Errorf("published %q", got)
		}
		// The same again and again, with newer timestamps.
		before, first := s.count(), s.has(key)
		time.Sleep(time.Hour)
		if n := s.count() - before; n != int(time.Hour/Republish) || !s.has(key).NewerThan(first) {
			t.Errorf("%d packets in an hour", n)
		}
	})
}

func TestPublisherFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, s := testKey(t, 0x2a), &server{t: t}
		down := true
		s.refuse = func(*http.Request) *http.Response {
			if down {
				return answer(http.StatusInternalServerError, nil)
			}
			return nil
		}
		p := start(t, s, NewSigner(key, 0, nil))
		p.Publish(identity.NodeAddr{ID: key.NodeID(), Relay: relayURL(t, "https://a.example")})
		time.Sleep(10 * time.Minute)
		if n := s.count(); n != 15 { // after 0, 1, 3, 7, 15, 31 and 63 seconds, then once a minute
			t.Errorf("%d attempts in 10 minutes", n)
		}
		if err := p.Status().Err; err == nil || !strings.Contains(err.Error(), "500 Internal Server Error") {
			t.Errorf("%v", err)
		}
		s.mu.Lock()
		down = false
		s.mu.Unlock()
		time.Sleep(retryMax)
		if st := p.Status(); st.Err != nil || st.Last.IsZero() {
			t.Errorf("%+v", st)
		}
	})
}

func TestPublisherWaitsAsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, s := testKey(t, 0x2a), &server{t: t}
		s.refuse = func(*http.Request) *http.Response {
			res := answer(http.StatusTooManyRequests, nil)
			res.Header.Set("Retry-After", "90")
			return res
		}
		p := start(t, s, NewSigner(key, 0, nil))
		p.Publish(identity.NodeAddr{ID: key.NodeID()})
		time.Sleep(89 * time.Second)
		if s.count() != 1 {
			t.Errorf("%d attempts", s.count())
		}
		time.Sleep(2 * time.Second)
		if s.count() != 2 {
			t.Errorf("%d attempts", s.count())
		}
	})
}

// A node whose clock was ahead once, and whose state is gone, is heard again at once
// (spec: a server keeps the newest for ever).
func TestPublisherAfterClockAhead(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			key, s := testKey(t, 0x2a), &server{t: t, quiet: quiet}
			id := key.NodeID()
			ahead, err := NewSigner(key, 0, nil).Sign(time.Now().Add(365*24*time.Hour), identity.NodeAddr{ID: id, Relay: relayURL(t, "https://old.example")})
			if err != nil {
				t.Fatal(err)
			}
			s.packets = map[string]Packet{id.Z32(): ahead}
			p := start(t, s, NewSigner(key, 0, nil))
			p.Publish(identity.NodeAddr{ID: id, Relay: relayURL(t, "https://new.example")})
			synctest.Wait()
			if got := s.has(key).Addr().Relay.String(); got != "https://new.example./" {
				t.Errorf("quiet %v: the server has %q", quiet, got)
			}
		})
	}
}

func TestResolver(t *testing.T) {
	key, s := testKey(t, 0x2a), &server{t: t}
	id, history := key.NodeID(), &History{}
	r := Resolver{Client: s.client(), History: history}
	resolve := func() (items []discovery.Item, err error) {
		err = r.Resolve(t.Context(), id, func(i discovery.Item) { items = append(items, i) })
		return items, err
	}
	if items, err := resolve(); !errors.Is(err, ErrNotFound) || len(items) > 0 {
		t.Errorf("%v, %v", items, err)
	}
	now := time.Now()
	packet := func(at time.Time) Packet {
		p, err := NewSigner(key, 0, nil).Sign(at, identity.NodeAddr{ID: id, Relay: relayURL(t, "https://a.example")})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	set := func(p Packet) { s.packets = map[string]Packet{id.Z32(): p} }
	set(packet(now))
	items, err := resolve()
	if err != nil || len(items) != 1 || items[0].Addr.ID != id || items[0].Addr.Relay.String() != "https://a.example./" || items[0].Source != "pkarr" || !items[0].Signed.Equal(now.Truncate(time.Microsecond)) {
		t.Fatalf("%+v, %v", items, err)
	}
	if _, err := resolve(); err != nil { // the same again
		t.Error(err)
	}
	// Replayed (S27).
	set(packet(now.Add(-time.Second)))
	if items, err := resolve(); !errors.Is(err, ErrReplayed) || len(items) > 0 {
		t.Errorf("%v, %v", items, err)
	}
	// From the future: used, and not remembered (S27).
	set(packet(now.Add(48 * time.Hour)))
	if items, err := resolve(); err != nil || len(items) != 1 {
		t.Errorf("%v, %v", items, err)
	}
	set(packet(now.Add(time.Second)))
	if items, err := resolve(); err != nil || len(items) != 1 {
		t.Errorf("%v, %v", items, err)
	}
	if got := history.Newest(id); got != uint64(now.Add(time.Second).UnixMicro()) {
		t.Errorf("newest %d", got)
	}
	// Forged: of another key.
	other, err := NewSigner(testKey(t, 7), 0, nil).Sign(now, identity.NodeAddr{ID: testKey(t, 7).NodeID()})
	if err != nil {
		t.Fatal(err)
	}
	set(other)
	if items, err := resolve(); !errors.Is(err, ErrBadSignature) || len(items) > 0 {
		t.Errorf("%v, %v", items, err)
	}
	// Oversize: not read to its end.
	s.refuse = func(*http.Request) *http.Response { return answer(http.StatusOK, make([]byte, 1<<20)) }
	if _, err := resolve(); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v", err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	var h History
	for i := range maxHistory + 50 {
		h.Set(identity.NodeID{byte(i), byte(i >> 8)}, 1)
	}
	if len(h.last) != maxHistory {
		t.Errorf("%d nodes", len(h.last))
	}
}
