package dnsmap_test

import (
	"errors"
	"fmt"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
)

func ExampleNames() {
	self, _ := identity.ParseNodeID("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	peer, _ := identity.ParseNodeID("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")

	names, err := dnsmap.NewNames(dnsmap.NamesConfig{Self: self, SelfName: "laptop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(names.Add("nas", peer))
	fmt.Println(errors.Is(names.Add("wpad", peer), dnsmap.ErrBadPetname))
	fmt.Println(names.FQDN(peer))
	// Output:
	// <nil>
	// true
	// nas.node.internal
}

func ExampleValidPetname() {
	fmt.Println(dnsmap.ValidPetname("web-1"))
	fmt.Println(dnsmap.ValidPetname("4711"))
	// Output:
	// <nil>
	// bad name "4711": it must not be digits only
}
