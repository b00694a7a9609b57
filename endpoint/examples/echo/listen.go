package main

import (
	"context"
	"io"
	"sync"

	"github.com/nodetun/nodetun/endpoint"
)

// listen echoes until ctx ends.
func listen(ctx context.Context, opts options) error {
	e, stop, err := start(context.WithoutCancel(ctx), endpoint.Config{Socket: opts.socket(), ALPNs: []string{opts.alpn}})
	if err != nil {
		return err
	}
	defer stop()
	if _, err := e.Socket().WaitDirectAddrs(ctx); err != nil {
		return err
	}
	if err := announce(e); err != nil {
		return err
	}
	var tasks sync.WaitGroup
	for {
		c, err := e.Accept(ctx)
		if err != nil {
			e.Close(0, "bye")
			tasks.Wait()
			return nil
		}
		tasks.Go(func() { echoStreams(c, &tasks) })
		tasks.Go(func() { echoDatagrams(c) })
	}
}

// announce prints what a dialler needs to know.
func announce(e *endpoint.Endpoint) error {
	addr := e.NodeAddr()
	line := struct {
		NodeID   string   `json:"nodeId"`
		Direct   []string `json:"directAddresses"`
		RelayURL string   `json:"relayUrl"`
	}{NodeID: addr.ID.String(), Direct: []string{}, RelayURL: addr.Relay.String()}
	for _, direct := range addr.Direct {
		line.Direct = append(line.Direct, direct.String())
	}
	return printJSON(line)
}

// echoStreams answers every stream of a connection, each while it comes.
func echoStreams(c *endpoint.Connection, tasks *sync.WaitGroup) {
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return // the connection has ended
		}
		tasks.Go(func() {
			defer s.Close()
			if _, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{s}, make([]byte, 256<<10)); err != nil {
				s.CancelRead(0)
				s.CancelWrite(0)
			}
		})
	}
}

func echoDatagrams(c *endpoint.Connection) {
	for {
		b, err := c.ReceiveDatagram(context.Background())
		if err != nil {
			return
		}
		_ = c.SendDatagram(b) // one that does not fit the way back is lost, as any may be
	}
}
