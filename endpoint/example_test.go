package endpoint_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/netip"
	"sync"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
)

// greeter runs an endpoint on loopback that takes one connection, reads what
// is asked on its first stream, and answers. It returns where to find it.
func greeter(ctx context.Context, tasks *sync.WaitGroup) identity.NodeAddr {
	e, err := endpoint.New(endpoint.Config{
		Socket: magicsock.Config{
			Key:   identity.GenerateSecretKey(),
			Bind4: netip.MustParseAddrPort("127.0.0.1:0"), Bind6: netip.MustParseAddrPort("[::1]:0"),
		},
		ALPNs: []string{"greet/1"},
	})
	if err != nil {
		log.Fatal(err)
	}
	tasks.Go(func() { _ = e.Run(ctx) })
	tasks.Go(func() {
		c, err := e.Accept(ctx)
		if err != nil {
			return
		}
		stream, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		name, _ := io.ReadAll(stream)
		fmt.Fprintf(stream, "hello, %s", name)
		stream.Close()
	})
	return e.NodeAddr()
}

func ExampleEndpoint_Connect() {
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	addr := greeter(ctx, &tasks)

	e, err := endpoint.New(endpoint.Config{Socket: magicsock.Config{
		Key:   identity.GenerateSecretKey(),
		Bind4: netip.MustParseAddrPort("127.0.0.1:0"), Bind6: netip.MustParseAddrPort("[::1]:0"),
	}})
	if err != nil {
		log.Fatal(err)
	}
	tasks.Go(func() { _ = e.Run(ctx) })

	c, err := e.Connect(ctx, addr, "greet/1")
	if err != nil {
		log.Fatal(err)
	}
	stream, err := c.OpenStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(stream, "laptop")
	stream.Close() // the end of what we send; reading goes on
	answer, err := io.ReadAll(stream)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	fmt.Println("the node dialled:", c.RemoteNodeID() == addr.ID)
	c.Close(0, "")
	// Output:
	// hello, laptop
	// the node dialled: true
}

func ExampleEndpoint_Accept() {
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	friend := identity.GenerateSecretKey()
	loopback4, loopback6 := netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:0")

	// Only one node may reach this endpoint. Others get no answer at all.
	e, err := endpoint.New(endpoint.Config{
		Socket: magicsock.Config{
			Key: identity.GenerateSecretKey(), Bind4: loopback4, Bind6: loopback6,
			Admit: func(id identity.NodeID) bool { return id == friend.NodeID() },
		},
		ALPNs: []string{"notes/1"},
	})
	if err != nil {
		log.Fatal(err)
	}
	tasks.Go(func() { _ = e.Run(ctx) })

	dialler, err := endpoint.New(endpoint.Config{Socket: magicsock.Config{Key: friend, Bind4: loopback4, Bind6: loopback6}})
	if err != nil {
		log.Fatal(err)
	}
	tasks.Go(func() { _ = dialler.Run(ctx) })
	tasks.Go(func() {
		c, err := dialler.Connect(ctx, e.NodeAddr(), "notes/1")
		if err != nil {
			return
		}
		_ = c.SendDatagram([]byte("buy milk"))
		<-c.Context().Done()
	})

	c, err := e.Accept(ctx)
	if err != nil {
		log.Fatal(err)
	}
	note, err := c.ReceiveDatagram(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("from a friend: %v, by %s: %s\n", c.RemoteNodeID() == friend.NodeID(), c.ALPN(), note)
	c.Close(0, "thanks")
	// Output:
	// from a friend: true, by notes/1: buy milk
}
