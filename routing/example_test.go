package routing_test

import (
	"fmt"
	"net/netip"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/routing"
)

func ExampleOverlayV6() {
	id, err := identity.ParseNodeID("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(routing.OverlayV6(id))
	// Output: fd6e:6f64:6574:c6a7:91ab:f22e:7a36:c37f
}

func ExampleTable() {
	self, _ := identity.ParseNodeID("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
	peer, _ := identity.ParseNodeID("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")

	pool, err := routing.ChoosePool("", routing.Networks{Used: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	table := routing.NewTable(self, pool, nil)
	entry, err := table.Add(peer)
	if err != nil {
		fmt.Println(err)
		return
	}
	id, ok := table.Lookup(entry.V4)
	fmt.Println(pool, entry.V4, ok, id == peer)
	// Output: 198.18.0.0/16 198.18.168.192 true true
}
