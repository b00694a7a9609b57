package hostile

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/wire"
)

// Peer is a node that attacks another one over one connection at a time.
type Peer struct {
	Endpoint *endpoint.Endpoint // that runs, and accepts nothing
	Target   identity.NodeAddr
	Rand     *rand.Rand
}

// Attack is one way to attack; it goes on until ctx ends or the target closes the connection.
type Attack func(ctx context.Context, p *Peer) error

// connect opens a session and says hello.
func (p *Peer) connect(ctx context.Context) (*endpoint.Connection, error) {
	conn, err := p.Endpoint.Connect(ctx, p.Target, wire.ALPN)
	if err != nil {
		return nil, err
	}
	control, err := conn.OpenUniStream(ctx)
	if err != nil {
		return nil, err
	}
	instance := make([]byte, 16)
	for i := range instance {
		instance[i] = byte(p.Rand.Uint32())
	}
	hello := wire.Hello{Version: "hostile", Instance: hex.EncodeToString(instance)}
	frame, err := wire.AppendMessage(wire.AppendKind(nil, wire.StreamControl), wire.TypeHello, hello)
	if err != nil {
		return nil, err
	}
	_, err = control.Write(frame)
	return conn, err
}

// openFlow opens a TCP flow to a port of the target, and waits until it is answered.
func (p *Peer) openFlow(ctx context.Context, conn *endpoint.Connection, port uint16) (*endpoint.Stream, error) {
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	header := wire.FlowHeader{SrcPort: uint16(1024 + p.Rand.IntN(60_000)), DstPort: port}
	if _, err := stream.Write(wire.AppendFlowHeader(nil, header)); err != nil {
		return nil, err
	}
	_ = stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, err := wire.ReadAnswer(stream)
	if err != nil {
		return nil, err
	}
	if answer.Status != wire.StatusOK {
		return nil, fmt.Errorf("flow to port %d: %v", port, answer.Status)
	}
	return stream, nil
}

// flows opens as many flows as the target takes, at most n.
func (p *Peer) flows(ctx context.Context, conn *endpoint.Connection, port uint16, n int) ([]*endpoint.Stream, error) {
	var streams []*endpoint.Stream
	for range n {
		stream, err := p.openFlow(ctx, conn, port)
		if err != nil {
			if len(streams) > 0 {
				break
			}
			return nil, err
		}
		streams = append(streams, stream)
	}
	return streams, nil
}

// ping waits for the answer to a ping, behind all that was sent before it.
func (p *Peer) ping(ctx context.Context, conn *endpoint.Connection) error {
	nonce := p.Rand.Uint64()
	for {
		if err := conn.SendDatagram(wire.AppendPing(nil, wire.KindPing, nonce, 0)); err != nil {
			return err
		}
		again, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		for {
			frame, err := conn.ReceiveDatagram(again)
			if err != nil {
				break
			}
			if kind, got, _, err := wire.ParsePing(frame); err == nil && kind == wire.KindPong && got == nonce {
				cancel()
				return nil
			}
		}
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := context.Cause(conn.Context()); err != nil {
			return err
		}
	}
}

// Send sends IP packets through the tunnel, as they are, and waits until the target has seen
// them.
func Send(packets [][]byte) Attack {
	return func(ctx context.Context, p *Peer) error {
		conn, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(0, "")
		if err := p.ping(ctx, conn); err != nil {
			return err
		}
		for _, ip := range packets {
			if err := conn.SendDatagram(append([]byte{wire.KindWhole}, ip...)); err != nil {
				return err
			}
		}
		return p.ping(ctx, conn)
	}
}

// Unread sends frames of so many bytes on flows to a port whose program reads nothing.
func Unread(port uint16, flows, frame int) Attack {
	return func(ctx context.Context, p *Peer) error {
		conn, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(0, "")
		streams, err := p.flows(ctx, conn, port, flows)
		if err != nil {
			return err
		}
		return fill(ctx, streams, frame)
	}
}

// Unnamed sends frames of so many bytes on streams that do not say what they are.
func Unnamed(streams, frame int) Attack {
	return func(ctx context.Context, p *Peer) error {
		conn, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(0, "")
		var open []*endpoint.Stream
		for range streams {
			opening, cancel := context.WithTimeout(ctx, time.Second)
			stream, err := conn.OpenStream(opening)
			cancel()
			if err != nil {
				break
			}
			// A flow's header begins; its flags and ports do not come.
			if _, err := stream.Write(wire.AppendKind(nil, wire.StreamFlow)); err != nil {
				return err
			}
			open = append(open, stream)
		}
		return fill(ctx, open, frame)
	}
}

// Deaf opens flows to a port whose program sends without end, and reads nothing.
func Deaf(port uint16, flows int) Attack {
	return func(ctx context.Context, p *Peer) error {
		conn, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(0, "")
		if _, err := p.flows(ctx, conn, port, flows); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-conn.Context().Done():
		}
		return nil
	}
}

// fill writes a frame to one stream after the other, so that none is joined with the next,
// until none takes anything any more.
func fill(ctx context.Context, streams []*endpoint.Stream, frame int) error {
	b := make([]byte, frame)
	for ctx.Err() == nil && len(streams) > 0 {
		rest := streams[:0]
		for _, stream := range streams {
			_ = stream.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := stream.Write(b); err == nil {
				rest = append(rest, stream)
			} else if closed, ok := endpoint.Cause(err); ok {
				return closed
			}
		}
		streams = rest
	}
	<-ctx.Done()
	return nil
}
