// Package e2e tests the whole program as its users meet it: the real binary in
// network namespaces, with real ssh, ping, dig and iperf3. It holds no code of
// the product. Every test is bounded in time and leaves nothing behind.
package e2e
