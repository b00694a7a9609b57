// Package nstest makes network namespaces for tests.
//
// A test that needs the kernel's network (a TUN, nftables, real ssh) calls
// RequireRoot, makes namespaces with New, joins them with Veth and runs
// programs inside them. Everything is removed when the test ends. Names carry
// the process id, so that test binaries running side by side never meet.
//
// It is for tests only and imports nothing of nodetun.
package nstest
