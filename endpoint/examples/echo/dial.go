package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
)

// dialTimeout bounds the whole run.
const dialTimeout = 30 * time.Second

// dial sends bytes to a node and compares what comes back.
func dial(ctx context.Context, opts options) error {
	addr, err := opts.target()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	e, stop, err := start(context.WithoutCancel(ctx), endpoint.Config{Socket: opts.socket()})
	if err != nil {
		return err
	}
	defer stop()
	begin := time.Now()
	c, err := e.Connect(ctx, addr, opts.alpn)
	if err != nil {
		return err
	}
	if err := exchange(ctx, c, opts.bytes); err != nil {
		return err
	}
	took := time.Since(begin)
	path := c.PathText()
	c.Close(0, "done")
	return printJSON(struct {
		OK    bool    `json:"ok"`
		Bytes int     `json:"bytes"`
		MS    float64 `json:"ms"`
		Path  string  `json:"path"`
	}{true, opts.bytes, float64(took.Microseconds()) / 1000, path})
}

// target is the node to dial.
func (o *options) target() (identity.NodeAddr, error) {
	var addr identity.NodeAddr
	var err error
	if strings.HasPrefix(o.node, "node") && len(o.node) != 52 && len(o.node) != 64 {
		addr, err = identity.ParseTicket(o.node)
	} else {
		addr.ID, err = identity.ParseNodeID(o.node)
	}
	addr.Direct = append(addr.Direct, o.addrs...)
	if len(o.relays) > 0 {
		addr.Relay = o.relays[0]
	}
	return addr, err
}

// exchange sends n bytes on a stream, then a datagram, and waits for both.
func exchange(ctx context.Context, c *endpoint.Connection, n int) error {
	s, err := c.OpenStream(ctx)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	request := make([]byte, n)
	rand.Read(request)
	var writing sync.WaitGroup
	var writeErr error
	writing.Go(func() {
		_, err := s.Write(request)
		writeErr = errors.Join(err, s.Close())
	})
	answer, err := io.ReadAll(io.LimitReader(s, int64(n)+1))
	if err != nil {
		s.CancelWrite(0)
	}
	writing.Wait()
	switch {
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case writeErr != nil:
		return fmt.Errorf("write: %w", writeErr)
	case !bytes.Equal(answer, request):
		return fmt.Errorf("the echo differs: %d bytes came back for %d", len(answer), n)
	}
	return exchangeDatagram(ctx, c)
}

// exchangeDatagram waits for the echo of a datagram, of which a few may get
// lost. A peer that takes none is spared.
func exchangeDatagram(ctx context.Context, c *endpoint.Connection) error {
	if c.MaxDatagramSize() == 0 {
		return nil
	}
	for range 5 {
		if err := c.SendDatagram([]byte("echo")); err != nil {
			return fmt.Errorf("datagram: %w", err)
		}
		wait, cancel := context.WithTimeout(ctx, time.Second)
		b, err := c.ReceiveDatagram(wait)
		cancel()
		switch {
		case err == nil && string(b) == "echo":
			return nil
		case err == nil:
			return errors.New("the echo of a datagram differs")
		case !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("datagram: %w", err)
		}
	}
	return errors.New("no echo of a datagram")
}
