package identity_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/nodetun/nodetun/identity"
)

func ExampleParseNodeID() {
	id, err := identity.ParseNodeID("4CB5ABF6AD79FBF5ABBCCAFCC269D85CD2651ED4B885B5869F241AEDF0A5BA29")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(id)
	fmt.Println(id.Short())

	_, err = identity.ParseNodeID("nas")
	fmt.Println(err)
	// Output:
	// js22x5vnph57lk54zl6me2oyltjgkhwuxcc3lbu7eqno34ffxiuq
	// js22x5vnph57lk54
	// not a node id: 3 characters, want 52 of base32 or 64 of hex
}

func ExampleParseRelayURL() {
	a, _ := identity.ParseRelayURL("https://Relay.example.org:443")
	b, _ := identity.ParseRelayURL("https://relay.example.org./")
	fmt.Println(a, a == b)
	// Output: https://relay.example.org./ true
}

func ExampleFormatTicket() {
	id, _ := identity.ParseNodeID("ae58ff8833241ac82d6ff7611046ed67b5072d142c588d0063e942d9a75502b6")
	relay, _ := identity.ParseRelayURL("http://derp.me")
	ticket := identity.FormatTicket(identity.NodeAddr{
		ID:     id,
		Relay:  relay,
		Direct: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1024")},
	})
	fmt.Println(ticket)

	addr, err := identity.ParseTicket(ticket)
	fmt.Println(addr.ID.Short(), addr.Relay, addr.Direct, err)
	// Output:
	// nodeacxfr74igmsbvsbnn73wcecg5vt3kbzncqwfrdiampuufwnhkublmaiqnb2hi4b2f4xwizlsoaxg2zjof4aqa7yaaaayaca
	// vzmp7cbteqnmqllp http://derp.me./ [127.0.0.1:1024] <nil>
}

func ExampleLoadSecretKey() {
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "secret.key")

	// The first start makes the key, all others find it.
	for range 2 {
		key, err := identity.LoadSecretKey(path)
		if errors.Is(err, fs.ErrNotExist) {
			key, err = identity.CreateSecretKey(path)
			fmt.Println("made", key, err)
			continue
		}
		fmt.Println("found", key, err)
	}
	// Output:
	// made SecretKey(..) <nil>
	// found SecretKey(..) <nil>
}

func ExampleClean() {
	fmt.Println(identity.Clean("\x1b[2Jnas\u202e", 32))
	// Output: �[2Jnas�
}
