package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"syscall"
	"time"
)

// maxBody bounds requests and answers, in bytes.
const maxBody = 16 << 20

// Client asks the node behind a socket. It is a Backend.
type Client struct {
	socket string
	http   *http.Client
}

var _ Backend = (*Client)(nil)

// NewClient makes a client for the socket; it connects when something is asked.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Running reports whether a node listens on the socket. The error is not nil
// when that cannot be known, as without permission.
func (c *Client) Running() (bool, error) {
	conn, err := net.DialTimeout("unix", c.socket, time.Second)
	if err == nil {
		conn.Close()
		return true, nil
	}
	err = c.explain(err)
	if errors.Is(err, ErrNotRunning) {
		return false, nil
	}
	return false, err
}

// Gone waits until the socket is no more, which a node that ends takes away
// last.
func (c *Client) Gone(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if running, _ := c.Running(); !running {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the node is still running: %w", ctx.Err())
		}
	}
}

// explain says what an error of connecting means.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return ErrNotRunning
	case errors.Is(err, fs.ErrPermission):
		return Wrap(KindForbidden, errors.New("not allowed to ask the node (try: sudo nodetun …; to do without sudo: "+joinGroup()+")"))
	default:
		return err
	}
}

// joinGroup is how a user gets into the group, whose members may ask.
func joinGroup() string {
	name := "$USER"
	if me, err := user.Current(); err == nil {
		name = me.Username
	}
	join := "sudo usermod -aG " + Group + " " + name + ", and log in again"
	if _, ok := groupID(); !ok {
		return "sudo groupadd " + Group + " && " + join + " after the node was started again"
	}
	return join
}

// open asks one question and returns the answer, whose body is to be closed, if
// it is no error; in may be nil.
func (c *Client) open(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://nodetun"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("the node broke off: %w", err)
	}
	var e wireError
	if json.Unmarshal(b, &e) != nil || e.Text == "" {
		return nil, fmt.Errorf("the node answered %s", resp.Status)
	}
	return nil, &Error{Kind: e.Kind, Text: e.Text}
}

// call asks one question; in and out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.open(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("the node broke off: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the node's answer makes no sense (other version?): %w", err)
	}
	return nil
}

func get[T any](ctx context.Context, c *Client, path string) (v T, err error) {
	err = c.call(ctx, http.MethodGet, path, nil, &v)
	return v, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (v T, err error) {
	err = c.call(ctx, http.MethodPost, path, in, &v)
	return v, err
}

// Status implements Backend.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Self implements Backend.
func (c *Client) Self(ctx context.Context) (Self, error) { return get[Self](ctx, c, "/v1/self") }

// Ticket implements Backend.
func (c *Client) Ticket(ctx context.Context) (Ticket, error) {
	return get[Ticket](ctx, c, "/v1/ticket")
}

// Whois implements Backend.
func (c *Client) Whois(ctx context.Context, addr string) (Whois, error) {
	return get[Whois](ctx, c, "/v1/whois?addr="+url.QueryEscape(addr))
}

// HostKeys implements Backend.
func (c *Client) HostKeys(ctx context.Context, name string) (HostKeys, error) {
	return get[HostKeys](ctx, c, "/v1/hostkeys?name="+url.QueryEscape(name))
}

// Check implements Backend.
func (c *Client) Check(ctx context.Context, peer, rule string) (Check, error) {
	return get[Check](ctx, c, "/v1/check?peer="+url.QueryEscape(peer)+"&rule="+url.QueryEscape(rule))
}

// Why implements Backend.
func (c *Client) Why(ctx context.Context, peer string) (Why, error) {
	return get[Why](ctx, c, "/v1/why?peer="+url.QueryEscape(peer))
}

// Lookup implements Backend.
func (c *Client) Lookup(ctx context.Context, node string) (Lookup, error) {
	return get[Lookup](ctx, c, "/v1/lookup?node="+url.QueryEscape(node))
}

// Hosts implements Backend.
func (c *Client) Hosts(ctx context.Context) ([]HostUse, error) {
	return get[[]HostUse](ctx, c, "/v1/hosts")
}

// Netcheck implements Backend.
func (c *Client) Netcheck(ctx context.Context, progress func(string)) (Netcheck, error) {
	return follow[Netcheck](ctx, c, http.MethodGet, "/v1/netcheck", nil, steps{progress: progress})
}

// Invite implements Backend.
func (c *Client) Invite(ctx context.Context, r InviteRequest) (Invite, error) {
	return post[Invite](ctx, c, "/v1/invite", r)
}

// Join implements Backend.
func (c *Client) Join(ctx context.Context, r JoinRequest, progress func(string)) (JoinResult, error) {
	return follow[JoinResult](ctx, c, http.MethodPost, "/v1/join", r, steps{progress: progress})
}

// Pair implements Backend.
func (c *Client) Pair(ctx context.Context, r PairRequest, progress func(string), ask func(PairQuestion) bool) (JoinResult, error) {
	return follow[JoinResult](ctx, c, http.MethodPost, "/v1/pair", r, steps{progress, ask})
}

// follow asks what is answered step by step.
func follow[Out any](ctx context.Context, c *Client, method, path string, in any, steps steps) (out Out, err error) {
	resp, err := c.open(ctx, method, path, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(io.LimitReader(resp.Body, maxBody))
	for {
		var line streamLine[Out]
		if err := lines.Decode(&line); err != nil {
			return out, fmt.Errorf("the node broke off: %w", err)
		}
		switch {
		case line.Error != nil:
			return out, &Error{Kind: line.Error.Kind, Text: line.Error.Text}
		case line.Result != nil:
			return *line.Result, nil
		case line.Question != nil && steps.ask != nil:
			answer := pairAnswer{ID: line.Question.ID, Same: steps.ask(*line.Question)}
			if err := c.call(ctx, http.MethodPost, "/v1/pair/answer", answer, nil); err != nil {
				return out, err
			}
		case steps.progress != nil && line.Step != "":
			steps.progress(line.Step)
		}
	}
}

// Ping implements Backend.
func (c *Client) Ping(ctx context.Context, r PingRequest) (Ping, error) {
	return post[Ping](ctx, c, "/v1/ping", r)
}

// Peers implements Backend.
func (c *Client) Peers(ctx context.Context) ([]PeerEntry, error) {
	return get[[]PeerEntry](ctx, c, "/v1/peers")
}

// AddPeer implements Backend.
func (c *Client) AddPeer(ctx context.Context, r AddRequest) (AddResult, error) {
	return post[AddResult](ctx, c, "/v1/peers", r)
}

// Forget implements Backend.
func (c *Client) Forget(ctx context.Context, peer string) (PeerEntry, error) {
	return post[PeerEntry](ctx, c, "/v1/forget", RulesRequest{Peer: peer})
}

// Allow implements Backend.
func (c *Client) Allow(ctx context.Context, r RulesRequest) (PeerEntry, error) {
	return post[PeerEntry](ctx, c, "/v1/allow", r)
}

// Deny implements Backend.
func (c *Client) Deny(ctx context.Context, r RulesRequest) (PeerEntry, error) {
	return post[PeerEntry](ctx, c, "/v1/deny", r)
}

// Reload implements Backend.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", nil, nil)
}

// Down implements Backend.
func (c *Client) Down(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/down", nil, nil)
}

// RemoveStale removes a socket that nobody listens on. It is no error when
// there is none.
func RemoveStale(socket string) error {
	if running, err := NewClient(socket).Running(); running || err != nil {
		return err
	}
	info, err := os.Lstat(socket)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return nil
	}
	return os.Remove(socket)
}
