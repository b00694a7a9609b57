// Package natmatrix tests through which networks two nodetuns find a direct
// path, how fast, and what becomes of an ssh session when the network changes
// under it: the real program in network namespaces, behind routers of
// nftables. It holds no code of the product.
//
// Without flags it runs the scenarios that stand for the others, within a
// minute. scripts/natmatrix runs all of them and writes docs/nat.md:
//
//	-full      every scenario and every event
//	-doc FILE  put the tables of what was measured into the file, between the
//	           lines <!-- matrix --> and <!-- events --> and the ends of them
package natmatrix
