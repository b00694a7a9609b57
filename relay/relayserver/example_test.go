package relayserver_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayclient"
	"github.com/nodetun/nodetun/relay/relayserver"
)

// A relay of its own sockets, for two nodes alone.
func ExampleServer_Run() {
	friend, other := identity.GenerateSecretKey(), identity.GenerateSecretKey()
	server, err := relayserver.New(relayserver.Config{
		Addr: "127.0.0.1:0", STUNAddr: "none", Dev: true, // a public one has ACME or a certificate
		Access: relayserver.Access{Mode: relayserver.AccessAllow, Nodes: []identity.NodeID{friend.NodeID(), other.NodeID()}},
	})
	if err != nil {
		panic(err)
	}
	if err := server.Listen(); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()

	// Nodes find it at server.Addr().
	cancel()
	fmt.Println(<-done)
	// Output: <nil>
}

// A relay as a part of a web server.
func ExampleServer_Handler() {
	server, err := relayserver.New(relayserver.Config{Dev: true})
	if err != nil {
		panic(err)
	}
	defer server.Close()
	mux := http.NewServeMux()
	mux.Handle("/relay", server.Handler())
	mux.Handle("/ping", server.Handler())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "something else") })
	web := httptest.NewServer(mux)
	defer web.Close()

	url, err := identity.ParseRelayURL(web.URL)
	if err != nil {
		panic(err)
	}
	client, err := relayclient.Dial(context.Background(), relayclient.Config{URL: url, Key: identity.GenerateSecretKey()})
	fmt.Println(err)
	if err == nil {
		client.Close()
	}
	// Output: <nil>
}
