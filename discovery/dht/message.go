package dht

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/nodetun/nodetun/discovery/dht/bencode"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// idLen is how long the names of nodes and of items are, in bytes (BEP 5).
const idLen = 20

// id names a node of the DHT, or an item.
type id [idLen]byte

// targetOf names the item of a node's key: its SHA-1 (BEP 44).
func targetOf(node identity.NodeID) id { return sha1.Sum(node[:]) }

// distance is that of two names: their exclusive or.
func (a id) distance(b id) (d id) {
	for i := range a {
		d[i] = a[i] ^ b[i]
	}
	return d
}

// contact is a node of the DHT and where it is:
//
//	id 20 │ IPv4 address 4 │ port u16, big endian
type contact struct {
	id   id
	addr netip.AddrPort
}

const contactLen = idLen + 4 + 2

func parseContacts(s string) (list []contact) {
	for ; len(s) >= contactLen; s = s[contactLen:] {
		var c contact
		copy(c.id[:], s)
		ip := netip.AddrFrom4([4]byte([]byte(s[idLen : idLen+4])))
		c.addr = netip.AddrPortFrom(ip, binary.BigEndian.Uint16([]byte(s[idLen+4:contactLen])))
		list = append(list, c)
	}
	return list
}

// query is a question to a node. Of us it says that we answer none (BEP 43).
func query(tx, method string, self id, args map[string]any) []byte {
	args["id"] = string(self[:])
	return bencode.Append(nil, map[string]any{"t": tx, "y": "q", "q": method, "ro": int64(1), "a": args})
}

// getArgs ask for an item, and for nodes that are nearer to it.
func getArgs(target id) map[string]any { return map[string]any{"target": string(target[:])} }

// putArgs give an item to a node that gave the token.
func putArgs(p pkarr.Packet, token string) map[string]any {
	node := p.ID()
	return map[string]any{
		"k": string(node[:]), "seq": int64(p.Timestamp()), "sig": string(p.Signature()), "token": token, "v": string(p.Message()),
	}
}

// reply is the answer of a node.
type reply struct {
	tx    string
	id    id
	nodes []contact
	token string
	// payload is that of a packet, unchecked; nil: the node has none.
	payload []byte
	// code is that of an error; 0: none.
	code int64
}

// codeOld says that a node has a newer item (BEP 44).
const codeOld = 302

var errNoReply = errors.New("not an answer")

// parse reads an answer.
func parse(b []byte) (r reply, err error) {
	v, err := bencode.Decode(b)
	if err != nil {
		return r, err
	}
	m, _ := v.(map[string]any)
	r.tx, _ = m["t"].(string)
	switch kind, _ := m["y"].(string); kind {
	case "e":
		if list, _ := m["e"].([]any); len(list) > 0 {
			r.code, _ = list[0].(int64)
		}
		if r.code == 0 {
			return r, errNoReply
		}
		return r, nil
	case "r":
	default:
		return r, errNoReply
	}
	said, _ := m["r"].(map[string]any)
	name, _ := said["id"].(string)
	if len(name) != idLen {
		return r, errNoReply
	}
	copy(r.id[:], name)
	nodes, _ := said["nodes"].(string)
	r.nodes = parseContacts(nodes)
	r.token, _ = said["token"].(string)
	signature, _ := said["sig"].(string)
	message, _ := said["v"].(string)
	if seq, ok := said["seq"].(int64); ok && seq > 0 && message != "" {
		r.payload = pkarr.Payload([]byte(signature), uint64(seq), []byte(message))
	}
	return r, nil
}
