package endpoint_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/nodetun/nodetun/discovery/discoveryserver"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
)

// A node publishes where it is, and another dials it by its key alone. The server is one
// in this process; pkarr.DefaultServer is that of iroh-net.
func ExampleEndpoint_Connect_byKey() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	server := discoveryserver.New(discoveryserver.Config{Addr: "127.0.0.1:0"})
	if err := server.Listen(); err != nil {
		log.Fatal(err)
	}
	tasks.Go(func() { _ = server.Run(ctx) })
	client := pkarr.Client{URL: fmt.Sprintf("http://%s/pkarr", server.Addr()), HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	loopback := netip.MustParseAddrPort("127.0.0.1:0")

	key := identity.GenerateSecretKey()
	notes, err := endpoint.New(endpoint.Config{Socket: magicsock.Config{Key: key, Bind4: loopback}, ALPNs: []string{"notes/1"}})
	if err != nil {
		log.Fatal(err)
	}
	tasks.Go(func() { _ = notes.Run(ctx) })
	publisher := pkarr.NewPublisher(client, pkarr.Republish, pkarr.NewSigner(key, 0, nil), nil)
	tasks.Go(func() { _ = publisher.Run(ctx) })
	publisher.Publish(notes.NodeAddr())

	caller, err := endpoint.New(endpoint.Config{
		Socket: magicsock.Config{Key: identity.GenerateSecretKey(), Bind4: loopback}, Resolver: pkarr.Resolver{Client: client},
	})
	if err != nil {
		log.Fatal(err)
	}
	tasks.Go(func() { _ = caller.Run(ctx) })
	for publisher.Status().Last.IsZero() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	c, err := caller.Connect(ctx, identity.NodeAddr{ID: key.NodeID()}, "notes/1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("found it:", c.RemoteNodeID() == key.NodeID())
	c.Close(0, "")
	// Output:
	// found it: true
}
