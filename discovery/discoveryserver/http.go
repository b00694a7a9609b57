package discoveryserver

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/ratelimit"
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
	if !s.within(s.puts, &s.count.puts.limited, w, r) {
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

// within reports whether a client is within a limit, and answers if it is not.
func (s *Server) within(limit *ratelimit.Table, count *atomic.Uint64, w http.ResponseWriter, r *http.Request) bool {
	ok := limit.Allow(s.cfg.TrustedProxies.ClientOf(r), time.Now())
	if !ok {
		count.Add(1)
		w.Header().Set("Retry-After", "4")
		fail(w, http.StatusTooManyRequests, "too many requests from this network")
	}
	return ok
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
	if !s.within(s.asked, &s.count.gets.limited, w, r) {
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

// query answers DNS over HTTPS, in the form of the DNS (RFC 8484) or in JSON.
func (s *Server) query(w http.ResponseWriter, r *http.Request) {
	if !s.within(s.asked, &s.count.dnsLimited, w, r) {
		return
	}
	s.count.dnsHTTP.Add(1)
	accept, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	ask := r.URL.Query()
	switch accept, _, _ = strings.Cut(accept, ";"); {
	case r.Method == http.MethodPost, accept == dnsType, (accept == "" || accept == "*/*") && !ask.Has("name"):
		s.queryWire(w, r)
	case accept == "application/dns-json", accept == "application/x-javascript", accept == "", accept == "*/*":
		s.queryJSON(w, r, ask)
	default:
		fail(w, http.StatusNotAcceptable, "there is "+dnsType+" and application/dns-json")
	}
}

func (s *Server) queryWire(w http.ResponseWriter, r *http.Request) {
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
	answerHead(w, dnsType, res)
	_, _ = w.Write(packed)
}

// answerHead writes the head of an answer of the DNS.
func answerHead(w http.ResponseWriter, contentType string, res *dns.Msg) {
	w.Header().Set("Content-Type", contentType)
	if ttl, ok := lowestTTL(res); ok {
		w.Header().Set("Cache-Control", "s-maxage="+strconv.Itoa(int(ttl)))
	}
}

// jsonAnswer is an answer of the DNS as iroh's server writes it.
type jsonAnswer struct {
	Status             int
	TC, RD, RA, AD, CD bool
	Question           []jsonRecord
	Answer             []jsonRecord `json:",omitempty"`
}

// jsonRecord is a question or a record.
type jsonRecord struct {
	Name string `json:"name"`
	Type uint16 `json:"type"`
	TTL  uint32 `json:"TTL,omitempty"`
	Data string `json:"data,omitempty"`
}

// queryJSON answers ?name=&type=; the type is a number or a name, A without.
func (s *Server) queryJSON(w http.ResponseWriter, r *http.Request, ask url.Values) {
	kind := dns.TypeA
	if text := ask.Get("type"); text != "" {
		number, err := strconv.ParseUint(text, 10, 16)
		named, ok := dns.StringToType[strings.ToUpper(text)]
		if kind = uint16(number); err != nil {
			kind = named
		}
		if err != nil && !ok {
			fail(w, http.StatusBadRequest, "no type of the DNS")
			return
		}
	}
	name := ask.Get("name")
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		fail(w, http.StatusBadRequest, "no name of the DNS")
		return
	}
	res := s.answer(r.Context(), new(dns.Msg).SetQuestion(dns.Fqdn(name), kind))
	out := jsonAnswer{Status: res.Rcode, TC: res.Truncated, RD: res.RecursionDesired, CD: res.CheckingDisabled}
	for _, q := range res.Question {
		out.Question = append(out.Question, jsonRecord{Name: q.Name, Type: q.Qtype})
	}
	for _, rr := range res.Answer {
		h := rr.Header()
		data := strings.TrimPrefix(rr.String(), h.String())
		if txt, ok := rr.(*dns.TXT); ok {
			data = strings.Join(txt.Txt, "")
		}
		out.Answer = append(out.Answer, jsonRecord{Name: h.Name, Type: h.Rrtype, TTL: h.Ttl, Data: data})
	}
	answerHead(w, "application/dns-json", res)
	_ = json.NewEncoder(w).Encode(out)
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
