// Package pkarr says where a node is in packets that the node itself signed, and keeps
// them on servers that anybody may ask over HTTP. The packets are those of iroh-net and of
// pkarr (a BEP 44 item whose value is a DNS message), so that servers of either kind serve
// nodes of either kind.
package pkarr
