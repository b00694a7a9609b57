package relayserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
)

const (
	// askTimeout bounds one question to the operator's server.
	askTimeout = 5 * time.Second
	// maxAsking is how many questions may be open at once. Who would ask one more
	// is not let in.
	maxAsking = 64
)

// check says whether the choice is complete.
func (a Access) check() error {
	switch a.Mode {
	case AccessUnset:
		return ErrNoAccess
	case AccessEveryone, AccessAllow, AccessDeny:
		return nil
	case AccessToken:
		if len(a.Tokens) == 0 || slices.Contains(a.Tokens, "") {
			return errors.New("relay access by token needs tokens that are not empty")
		}
		return nil
	case AccessHTTP:
		u, err := url.Parse(a.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("relay access: %q is no http or https URL", a.URL)
		}
		return nil
	default:
		return fmt.Errorf("relay access mode %d is unknown", a.Mode)
	}
}

// guard decides who gets in.
type guard struct {
	Access
	nodes  map[identity.NodeID]struct{}
	client *http.Client
	asking chan struct{} // holds a token for each question that is open
	logger *slog.Logger

	mu     sync.Mutex // guards warned
	warned time.Time
}

func newGuard(a Access, logger *slog.Logger) *guard {
	g := &guard{
		Access: a, nodes: make(map[identity.NodeID]struct{}, len(a.Nodes)), logger: logger,
		client: &http.Client{
			Timeout:       askTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 8, IdleConnTimeout: idleTimeout},
		},
		asking: make(chan struct{}, maxAsking),
	}
	for _, id := range a.Nodes {
		g.nodes[id] = struct{}{}
	}
	return g
}

// allows decides about a node that proved to have its key. shown is the token of
// its request, empty for none.
func (g *guard) allows(ctx context.Context, id identity.NodeID, shown string) bool {
	_, listed := g.nodes[id]
	switch g.Mode {
	case AccessEveryone:
		return true
	case AccessAllow:
		return listed
	case AccessDeny:
		return !listed
	case AccessToken:
		return g.knows(shown)
	case AccessHTTP:
		return g.ask(ctx, id)
	default:
		return false
	}
}

// knows compares with every token, so that the time tells nothing.
func (g *guard) knows(shown string) bool {
	found := 0
	for _, token := range g.Tokens {
		found |= subtle.ConstantTimeCompare([]byte(token), []byte(shown))
	}
	return found == 1
}

// ask asks the operator's server. Whatever goes wrong means no.
func (g *guard) ask(ctx context.Context, id identity.NodeID) bool {
	select {
	case g.asking <- struct{}{}:
		defer func() { <-g.asking }()
	default:
		g.warn("relay access: too many questions are open, a node is not let in", nil)
		return false
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL, http.NoBody)
	if err != nil {
		return false
	}
	request.Header.Set("X-Iroh-NodeId", id.Hex())
	if g.BearerToken != "" {
		request.Header.Set("Authorization", "Bearer "+g.BearerToken)
	}
	response, err := g.client.Do(request)
	if err != nil {
		g.warn("relay access: the server that decides does not answer", err)
		return false
	}
	defer response.Body.Close()
	const yes = "true"
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(len(yes)+1)))
	return err == nil && response.StatusCode == http.StatusOK && string(body) == yes
}

// warnEvery is how often what keeps nodes out is logged: each login meets it.
const warnEvery = 10 * time.Second

func (g *guard) warn(what string, err error) {
	now := time.Now()
	g.mu.Lock()
	may := now.Sub(g.warned) >= warnEvery
	if may {
		g.warned = now
	}
	g.mu.Unlock()
	if may {
		g.logger.Warn(what, "error", err)
	}
}

func (g *guard) close() { g.client.CloseIdleConnections() }

// tokenOf returns the token that a client shows: in the header, or in the query,
// where browsers have to put it.
func tokenOf(r *http.Request) string {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return r.URL.Query().Get("token")
}
