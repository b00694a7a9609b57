// Package discovery says how the addresses of a node are found from its NodeID,
// and how a node makes its own known. It holds the two interfaces that all
// sources meet; the sources are in packages below it.
//
// Sources run side by side: the first useful answer serves a dial, later ones
// still feed the choice of the path, and one that fails never stops the
// others. What a source says is a hint: the addresses are tried, and the
// identity is proved by the connection.
package discovery
