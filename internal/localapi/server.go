package localapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// ServerConfig is what a Server is told. Backend is required.
type ServerConfig struct {
	Backend Backend
	// GroupMayTrust lets members of the group do everything.
	GroupMayTrust bool
	// Logger may be nil.
	Logger *slog.Logger

	// credentials and owner stand in for the kernel in tests.
	credentials func(*net.UnixConn) (credentials, error)
	owner       int
	gid         int
}

// Server answers on the control socket.
type Server struct {
	cfg  ServerConfig
	http *http.Server
	// questions that wait for an answer: a chan bool by the ID.
	questions sync.Map
	crowd     crowd
	// looking holds one token while a netcheck runs: it costs packets and seconds.
	looking chan struct{}
}

// NewServer makes a server; it starts nothing.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.credentials == nil {
		cfg.credentials, cfg.owner, cfg.gid = peerCredentials, os.Geteuid(), -1
		if gid, ok := groupID(); ok {
			cfg.gid = gid
		}
	}
	s := &Server{cfg: cfg, looking: make(chan struct{}, 1)}
	s.http = &http.Server{
		Handler:           s.routes(),
		ConnContext:       s.identify,
		ConnState:         s.crowd.watch,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// shutdownTimeout is for answers that are under way when the node ends.
const shutdownTimeout = time.Second

// Run answers on the listener until ctx ends, lets answers under way finish,
// and closes the listener.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if s.http.Shutdown(stop) != nil {
		s.http.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type accessKey struct{}

// identify notes with each connection what its other end may do.
func (s *Server) identify(ctx context.Context, conn net.Conn) context.Context {
	level := accessNone
	if u, ok := unixConn(conn); ok {
		who, err := s.cfg.credentials(u)
		if err == nil {
			group := accessRead
			if s.cfg.GroupMayTrust {
				group = accessAll
			}
			level = judge(who, s.cfg.owner, s.cfg.gid, group)
		} else {
			s.cfg.Logger.Warn("control socket: who asks is not known", "err", err)
		}
	}
	if level != accessAll && !s.crowd.enter(conn) {
		_ = conn.Close()
	}
	return context.WithValue(ctx, accessKey{}, level)
}

// routes lists every question and who may ask it.
func (s *Server) routes() http.Handler {
	b, mux := s.cfg.Backend, http.NewServeMux()
	read := func(pattern string, f func(*http.Request) (any, error)) {
		mux.Handle(pattern, s.handler(accessRead, f))
	}
	trust := func(pattern string, f func(*http.Request) (any, error)) { mux.Handle(pattern, s.handler(accessAll, f)) }

	read("GET /v1/status", func(r *http.Request) (any, error) { return b.Status(r.Context()) })
	read("GET /v1/self", func(r *http.Request) (any, error) { return b.Self(r.Context()) })
	read("GET /v1/ticket", func(r *http.Request) (any, error) { return b.Ticket(r.Context()) })
	read("GET /v1/whois", func(r *http.Request) (any, error) { return b.Whois(r.Context(), r.FormValue("addr")) })
	read("GET /v1/hostkeys", func(r *http.Request) (any, error) { return b.HostKeys(r.Context(), r.FormValue("name")) })
	read("GET /v1/check", func(r *http.Request) (any, error) {
		return b.Check(r.Context(), r.FormValue("peer"), r.FormValue("rule"))
	})
	read("GET /v1/peers", func(r *http.Request) (any, error) { return b.Peers(r.Context()) })
	read("POST /v1/ping", with(b.Ping))
	read("GET /v1/why", func(r *http.Request) (any, error) { return b.Why(r.Context(), r.FormValue("peer")) })
	read("GET /v1/lookup", func(r *http.Request) (any, error) { return b.Lookup(r.Context(), r.FormValue("node")) })
	read("GET /v1/hosts", func(r *http.Request) (any, error) { return b.Hosts(r.Context()) })
	mux.Handle("GET /v1/netcheck", s.allowed(accessRead, stream(s, func(r *http.Request, steps steps) (Netcheck, error) {
		select {
		case s.looking <- struct{}{}:
			defer func() { <-s.looking }()
			return b.Netcheck(r.Context(), steps.progress)
		case <-r.Context().Done():
			return Netcheck{}, r.Context().Err()
		}
	})))
	trust("POST /v1/invite", with(b.Invite))
	mux.Handle("POST /v1/join", s.allowed(accessAll, stream(s, func(r *http.Request, steps steps) (JoinResult, error) {
		in, err := body[JoinRequest](r)
		if err != nil {
			return JoinResult{}, err
		}
		return b.Join(r.Context(), in, steps.progress)
	})))
	mux.Handle("POST /v1/pair", s.allowed(accessAll, stream(s, func(r *http.Request, steps steps) (JoinResult, error) {
		in, err := body[PairRequest](r)
		if err != nil {
			return JoinResult{}, err
		}
		return b.Pair(r.Context(), in, steps.progress, steps.ask)
	})))
	trust("POST /v1/pair/answer", with(s.answerPair))
	trust("POST /v1/peers", with(b.AddPeer))
	trust("POST /v1/allow", with(b.Allow))
	trust("POST /v1/deny", with(b.Deny))
	trust("POST /v1/forget", with(func(ctx context.Context, in RulesRequest) (PeerEntry, error) { return b.Forget(ctx, in.Peer) }))
	trust("POST /v1/reload", func(r *http.Request) (any, error) { return nil, b.Reload(r.Context()) })
	trust("POST /v1/down", func(r *http.Request) (any, error) { return nil, b.Down(r.Context()) })
	return mux
}

// with reads the body of a request for f.
func with[In, Out any](f func(context.Context, In) (Out, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		in, err := body[In](r)
		if err != nil {
			return nil, err
		}
		return f(r.Context(), in)
	}
}

// body reads what a request holds.
func body[In any](r *http.Request) (in In, err error) {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return in, Wrap(KindBadRequest, err)
	}
	return in, nil
}

// handler answers one kind of question to those who may ask it.
func (s *Server) handler(needs access, f func(*http.Request) (any, error)) http.Handler {
	return s.allowed(needs, func(w http.ResponseWriter, r *http.Request) {
		out, err := f(r)
		if err != nil {
			kind := KindOf(err)
			s.answer(w, httpStatus(kind), wireError{kind, err.Error()})
			return
		}
		s.answer(w, http.StatusOK, out)
	})
}

// allowed lets those through who may ask.
func (s *Server) allowed(needs access, f http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		level, _ := r.Context().Value(accessKey{}).(access)
		if level < needs {
			why := errForbidden
			if level == accessRead {
				why = errTrust
			}
			s.answer(w, httpStatus(KindForbidden), wireError{KindForbidden, why.Text})
			return
		}
		if err := readBody(w, r); err != nil {
			s.answer(w, httpStatus(KindBadRequest), wireError{KindBadRequest, err.Error()})
			return
		}
		f(w, r)
	})
}

// bodyTimeout is how long a request may take to arrive.
const bodyTimeout = 10 * time.Second

// readBody reads the whole body, in bounded time. After it the connection has no
// deadline, which would end the context of a handler that takes longer.
func readBody(w http.ResponseWriter, r *http.Request) error {
	limit := http.NewResponseController(w)
	if err := limit.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return err
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	return limit.SetReadDeadline(time.Time{})
}

// steps are how a question that takes a while talks with who asked.
type steps struct {
	progress func(string)
	ask      func(PairQuestion) bool
}

// answerPair takes the answer to a question that waits for it.
func (s *Server) answerPair(_ context.Context, a pairAnswer) (any, error) {
	waiting, ok := s.questions.LoadAndDelete(a.ID)
	if !ok {
		return nil, Wrap(KindNotFound, errors.New("nobody waits for that answer"))
	}
	waiting.(chan bool) <- a.Same
	return nil, nil
}

// stream answers with one line for each step, or question, and one with the outcome.
func stream[Out any](s *Server, f func(*http.Request, steps) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/jsonl")
		var mu sync.Mutex // steps come from several goroutines
		lines := json.NewEncoder(w)
		send := func(line streamLine[Out]) {
			mu.Lock()
			defer mu.Unlock()
			if err := lines.Encode(line); err == nil {
				_ = http.NewResponseController(w).Flush()
			}
		}
		out, err := f(r, steps{
			progress: func(step string) { send(streamLine[Out]{Step: step}) },
			ask: func(q PairQuestion) bool {
				q.ID = rand.Text()
				answer := make(chan bool, 1)
				s.questions.Store(q.ID, answer)
				defer s.questions.Delete(q.ID)
				send(streamLine[Out]{Question: &q})
				select {
				case same := <-answer:
					return same
				case <-r.Context().Done():
					return false
				}
			},
		})
		if err != nil {
			send(streamLine[Out]{Error: &wireError{KindOf(err), err.Error()}})
			return
		}
		send(streamLine[Out]{Result: &out})
	}
}

// streamLine is one line of such an answer: exactly one field is set.
type streamLine[Out any] struct {
	Step     string        `json:"step,omitempty"`
	Question *PairQuestion `json:"question,omitempty"`
	Result   *Out          `json:"result,omitempty"`
	Error    *wireError    `json:"error,omitempty"`
}

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.cfg.Logger.Debug("control socket: answer not sent", "err", err)
	}
}
