// Package discoveryserver keeps what nodes say of themselves and tells it to everybody:
// signed packets over HTTP (pkarr), and the records in them by DNS. It trusts nobody:
// each packet is signed by the node that it is about, and the newest one counts.
package discoveryserver
