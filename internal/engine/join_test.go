package engine

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/internal/wire"
)

// doorman stands for what decides about invites.
type doorman struct {
	open   atomic.Bool
	asked  atomic.Int64
	answer wire.Joined
}

func (d *doorman) Invited(identity.NodeID) bool { return d.open.Load() }

func (d *doorman) Join(_ identity.NodeID, j wire.Join) wire.Joined {
	d.asked.Add(1)
	if string(j.Secret) != "0123456789abcdef" {
		return wire.Joined{Reason: "wrong"}
	}
	return d.answer
}

// startDoor starts a node that takes joins, at which all are listened to, and one that
// wants to join.
func startDoor(t *testing.T) (d *doorman, door, guest *node) {
	t.Helper()
	d = &doorman{answer: wire.Joined{OK: true, Name: "door"}}
	d.open.Store(true)
	everybody := func(ends *endpoint.Config, _ *Config) {
		ends.Socket.Admit = func(identity.NodeID) bool { return true }
	}
	door = startNodeWith(t, nil, nil, testPool, func(ends *endpoint.Config, cfg *Config) {
		everybody(ends, cfg)
		cfg.Invites = d
	})
	return d, door, startNodeWith(t, nil, nil, testPool, everybody)
}

func (n *node) join(t *testing.T, to *node, secret string) (wire.Joined, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	v4, _ := to.end.LocalAddrs()
	connected := false
	joined, err := n.engine.Join(ctx, identity.NodeAddr{ID: to.id, Direct: []netip.AddrPort{v4}}, wire.Join{Secret: []byte(secret), Name: "guest"}, func(*endpoint.Connection) { connected = true })
	if !connected {
		t.Error("it was not said that it is connected")
	}
	return joined, err
}

func TestJoin(t *testing.T) {
	d, door, guest := startDoor(t)
	if joined, err := guest.join(t, door, "0123456789abcdef"); err != nil || !joined.OK || joined.Name != "door" {
		t.Errorf("%+v, %v", joined, err)
	}
	if joined, err := guest.join(t, door, "another"); err != nil || joined.OK || joined.Reason != "wrong" {
		t.Errorf("%+v, %v", joined, err)
	}
	// Nobody is listened to.
	d.open.Store(false)
	asked := d.asked.Load()
	if joined, err := guest.join(t, door, "0123456789abcdef"); !errors.Is(err, ErrNotTold) || d.asked.Load() != asked {
		t.Errorf("%+v, %v, asked %d times", joined, err, d.asked.Load()-asked)
	}
	// A peer is one already.
	if _, err := door.table.Add(guest.id); err != nil {
		t.Fatal(err)
	}
	door.engine.SetPeers([]Peer{{ID: guest.id, Rules: rules.Default()}})
	if joined, err := guest.join(t, door, "whatever"); err != nil || !joined.OK || d.asked.Load() != asked {
		t.Errorf("%+v, %v, asked %d times", joined, err, d.asked.Load()-asked)
	}
}

// S24: anything but one short request is not listened to.
func TestJoinOfAnotherKind(t *testing.T) {
	d, door, guest := startDoor(t)
	message := func(kind uint64, t wire.MessageType, body any) []byte {
		frame, err := wire.AppendMessage(wire.AppendKind(nil, kind), t, body)
		if err != nil {
			panic(err)
		}
		return frame
	}
	long := wire.Join{Secret: []byte("0123456789abcdef"), Name: string(bytes.Repeat([]byte("x"), 2*maxJoin))}
	for what, sent := range map[string][]byte{
		"a flow":          message(wire.StreamFlow, wire.TypeJoin, wire.Join{}),
		"another request": message(wire.StreamRequest, wire.TypeFacts, struct{}{}),
		"a long request":  message(wire.StreamRequest, wire.TypeJoin, long),
		"no JSON":         append(wire.AppendKind(nil, wire.StreamRequest), 5, 3, '{', '{', '{'),
		"half a request":  wire.AppendKind(nil, wire.StreamRequest),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		v4, _ := door.end.LocalAddrs()
		conn, err := guest.end.Connect(ctx, identity.NodeAddr{ID: door.id, Direct: []netip.AddrPort{v4}}, wire.ALPN)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := conn.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write(sent); err != nil {
			t.Fatal(err)
		}
		_ = stream.Close()
		select {
		case <-conn.Context().Done():
		case <-ctx.Done():
			t.Fatalf("%s: the connection goes on", what)
		}
		if closed, ok := endpoint.Cause(conn.CloseCause()); !ok || wire.CloseCode(closed.Code) != wire.CloseNotAuthorised {
			t.Errorf("%s: %+v", what, closed)
		}
	}
	if d.asked.Load() != 0 {
		t.Errorf("asked %d times", d.asked.Load())
	}
	await(t, "none is served any more", func() bool { return door.engine.joins.Load() == 0 })
}
