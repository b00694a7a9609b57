package relay

import "github.com/nodetun/nodetun/identity"

// DefaultSTUNPort is the UDP port on which a relay serves STUN.
const DefaultSTUNPort = 3478

// Defaults are the relays that number 0, who make iroh, run for everybody, limited in
// rate and without promises. They speak the protocol of iroh 1.x and serve no STUN.
func Defaults() []identity.RelayURL {
	var list []identity.RelayURL
	for _, host := range []string{"use1-1", "usw1-1", "euc1-1", "aps1-1"} {
		url, err := identity.ParseRelayURL("https://" + host + ".relay.n0.iroh.link.")
		if err != nil {
			panic(err) // the texts above are good
		}
		list = append(list, url)
	}
	return list
}

// Node is one relay.
type Node struct {
	// URL is where the relay is reached.
	URL identity.RelayURL
	// STUNOnly relays forward no packets; they only tell addresses.
	STUNOnly bool
	// STUNPort is the UDP port of its STUN server; zero means DefaultSTUNPort.
	STUNPort uint16
}
