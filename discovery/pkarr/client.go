package pkarr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// DefaultServer is that of number 0, where iroh-net publishes.
const DefaultServer = "https://dns.iroh.link/pkarr"

// requestTimeout ends a request.
const requestTimeout = 10 * time.Second

// Server keeps packets of nodes, one of each.
type Server interface {
	// Get fetches the packet of a node. The error wraps ErrNotFound if there is none.
	Get(ctx context.Context, id identity.NodeID) (Packet, error)
	// Put stores a packet. The error wraps ErrOld if there is a newer one.
	Put(ctx context.Context, p Packet) error
	// String names the server.
	String() string
}

// Client speaks with one server:
//
//	PUT <URL>/<z-base-32 of the NodeID>, the payload of a packet → 2xx
//	GET the same → 200 with the payload, or 404
type Client struct {
	// URL of the server, without a slash at its end, such as https://dns.iroh.link/pkarr.
	URL string
	// HTTP makes the requests. Nil: http.DefaultClient.
	HTTP *http.Client
}

var _ Server = Client{}

// String returns the URL.
func (c Client) String() string { return c.URL }

// Errors of servers.
var (
	// ErrNotFound says that the server has no packet of the node.
	ErrNotFound = errors.New("no record")
	// ErrOld says that the server has a newer packet of the node.
	ErrOld = errors.New("the server has a newer record")
)

// BusyError says that the server wants to be left alone for a while.
type BusyError struct{ Pause time.Duration }

func (e *BusyError) Error() string {
	return fmt.Sprintf("the server wants a pause of %d s", int(e.Pause/time.Second))
}

// Get fetches the packet of a node. The error wraps ErrNotFound, ErrBadPacket,
// ErrBadSignature, *BusyError or what the HTTP client says.
func (c Client) Get(ctx context.Context, id identity.NodeID) (Packet, error) {
	body, err := c.do(ctx, http.MethodGet, id, nil)
	if err != nil {
		return Packet{}, err
	}
	return Parse(id, body)
}

// Put stores a packet. The error wraps ErrOld, *BusyError or what the HTTP client says.
func (c Client) Put(ctx context.Context, p Packet) error {
	_, err := c.do(ctx, http.MethodPut, p.ID(), p.Payload())
	return err
}

func (c Client) do(ctx context.Context, method string, id identity.NodeID, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.URL, "/")+"/"+id.Z32(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if failed := new(url.Error); errors.As(err, &failed) {
		err = failed.Err // who asks knows the method and the URL
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, MaxPayload+1))
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode/100 == 2:
		return answer, nil
	case res.StatusCode == http.StatusNotFound && method == http.MethodGet:
		return nil, ErrNotFound
	case res.StatusCode == http.StatusConflict:
		return nil, ErrOld
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable:
		return nil, &BusyError{Pause: pause(res.Header.Get("Retry-After"))}
	default:
		return nil, refusal(res.StatusCode, answer)
	}
}

// refusal words the answer of a server that says why in JSON, or does not.
func refusal(status int, body []byte) error {
	var said struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &said) == nil && said.Detail != "" {
		return fmt.Errorf("the server answers %d: %s", status, identity.Clean(said.Detail, 200))
	}
	return fmt.Errorf("the server answers %d %s", status, http.StatusText(status))
}

// Pauses that a server may ask for.
const (
	minPause = time.Second
	maxPause = 5 * time.Minute
)

// pause reads the header Retry-After, in seconds.
func pause(text string) time.Duration {
	seconds, err := strconv.Atoi(text)
	if err != nil {
		return minPause
	}
	return min(max(time.Duration(seconds)*time.Second, minPause), maxPause)
}
