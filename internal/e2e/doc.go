// Package e2e tests the whole program as its users meet it: the real binary in
// network namespaces, with real ssh, ping, dig and iperf3. It holds no code of
// the product. Every test is bounded in time and leaves nothing behind.
//
// Most tests wait for something most of the time, and run side by side. Those that
// load the machine, or set its environment, run alone before them.
package e2e
