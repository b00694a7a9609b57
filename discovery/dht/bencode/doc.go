// Package bencode is the encoding of BitTorrent's messages (BEP 3).
package bencode
