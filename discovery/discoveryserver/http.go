package discoveryserver

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

const (
	headTimeout = 5 * time.Second
	bodyTimeout = 10 * time.Second
	idleTimeout = 30 * time.Second
	maxHead     = 8 << 10

	packetType = "application/x-pkarr-signed-packet"
	dnsType    = "application/dns-message"
)

// Handler serves
//
//	PUT, GET /pkarr/<z-base-32 of a NodeID>  packets
//	GET, POST /dns-query                     DNS over HTTPS (RFC 8484)
//	GET /healthcheck, /
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /pkarr/{id}", s.putPacket)
	mux.HandleFunc("GET /pkarr/{id}", s.getPacket)
	mux.HandleFunc("GET /dns-query", s.query)
	mux.HandleFunc("POST /dns-query", s.query)
	mux.HandleFunc("GET /healthcheck", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "OK") })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "This server tells where nodes are. See https://github.com/nodetun/nodetun\n")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Packets are signed and public: pages of any origin may read and put them.
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if r.Method == http.MethodOptions {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST, PUT")
			w.Header().Set("Access-Control-Allow-Headers", "*")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// fail answers with an error, as iroh's server words it.
func fail(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Status string `json:"status"`
		Detail string `json:"detail"`
	}{strconv.Itoa(status), detail})
}

// nodeOf reads the name in the path, and answers if it is none.
func nodeOf(w http.ResponseWriter, r *http.Request) (id identity.NodeID, ok bool) {
	id, err := identity.ParseZ32(r.PathValue("id"))
	if err != nil {
		fail(w, http.StatusBadRequest, "the path names no node: z-base-32 of 32 bytes is wanted")
		return id, false
	}
	return id, true
}

func (s *Server) putPacket(w http.ResponseWriter, r *http.Request) {
	id, ok := nodeOf(w, r)
	if !ok {
		s.count.puts.bad.Add(1)
		return
	}
	if addr := s.cfg.TrustedProxies.ClientOf(r); !s.puts.Allow(addr, time.Now()) {
		s.count.puts.limited.Add(1)
		w.Header().Set("Retry-After", "4")
		fail(w, http.StatusTooManyRequests, "too many packets from this network")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, pkarr.MaxPayload))
	if err != nil {
		s.count.puts.bad.Add(1)
		if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
			fail(w, http.StatusRequestEntityTooLarge, pkarr.ErrTooLong.Error())
		}
		return
	}
	p, err := pkarr.Parse(id, body)
	if err == nil && p.Time().After(time.Now().Add(maxAhead)) {
		err = errAhead
	}
	if err != nil {
		s.count.puts.bad.Add(1)
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	switch err := s.store.Put(r.Context(), p); {
	case err == nil:
		s.cache.put(p)
		s.count.puts.stored.Add(1)
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, ErrSame):
		s.count.puts.same.Add(1)
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, ErrOlder):
		s.count.puts.older.Add(1)
		fail(w, http.StatusConflict, ErrOlder.Error())
	default:
		s.storeFailed(w, err)
	}
}

// maxAhead is how far in the future the timestamp of a packet may be: it would be the
// newest until then.
const maxAhead = 24 * time.Hour

var errAhead = errors.New("the packet is from more than a day in the future: set the clock")

// storeFailed answers that the store is out of order.
func (s *Server) storeFailed(w http.ResponseWriter, err error) {
	s.count.storeErrors.Add(1)
	s.storeErr(err)
	w.Header().Set("Retry-After", "5")
	fail(w, http.StatusServiceUnavailable, "the store does not answer")
}

func (s *Server) getPacket(w http.ResponseWriter, r *http.Request) {
	id, ok := nodeOf(w, r)
	if !ok {
		s.count.gets.bad.Add(1)
		return
	}
	switch p, err := s.store.Get(r.Context(), id); {
	case err == nil:
		s.count.gets.found.Add(1)
		w.Header().Set("Content-Type", packetType)
		w.Header().Set("Cache-Control", "no-store") // the newest counts
		w.Header().Set("Last-Modified", p.Time().UTC().Format(http.TimeFormat))
		_, _ = w.Write(p.Payload())
	case errors.Is(err, ErrNotFound):
		s.count.gets.missing.Add(1)
		fail(w, http.StatusNotFound, ErrNotFound.Error())
	default:
		s.storeFailed(w, err)
	}
}

// query answers DNS over HTTPS.
func (s *Server) query(w http.ResponseWriter, r *http.Request) {
	var message []byte
	var err error
	if r.Method == http.MethodGet {
		message, err = base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
	} else {
		message, err = io.ReadAll(http.MaxBytesReader(w, r.Body, dns.MaxMsgSize))
	}
	req := new(dns.Msg)
	if err != nil || req.Unpack(message) != nil || req.Response {
		fail(w, http.StatusBadRequest, "no DNS query")
		return
	}
	res := s.answer(r.Context(), req)
	packed, err := res.Pack()
	if err != nil {
		fail(w, http.StatusInternalServerError, "the answer cannot be written")
		return
	}
	w.Header().Set("Content-Type", dnsType)
	if ttl, ok := lowestTTL(res); ok {
		w.Header().Set("Cache-Control", "s-maxage="+strconv.Itoa(int(ttl)))
	}
	_, _ = w.Write(packed)
}

func lowestTTL(m *dns.Msg) (ttl uint32, ok bool) {
	for _, rr := range m.Answer {
		if own := rr.Header().Ttl; !ok || own < ttl {
			ttl, ok = own, true
		}
	}
	return ttl, ok
}

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headTimeout, ReadTimeout: bodyTimeout, WriteTimeout: bodyTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHead, ErrorLog: s.httpLog,
	}
}
