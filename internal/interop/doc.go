// Package interop lets real iroh nodes meet ours: the prebuilt bindings of iroh-net
// 0.28.1 and iroh 1.1.0 for Node.js, driven by node/node.mjs, dial our endpoint, are
// dialled by it, and use our relay, all in a network namespace without a way out.
//
// It holds only tests; scripts/test installs the bindings. -doc FILE has them write
// the table of docs/interop.md.
package interop
