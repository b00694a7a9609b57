// Package endpoint makes QUIC connections that are named by NodeID: dial a key,
// and the connection that comes up is to the node that holds it, by whatever
// path magicsock finds.
//
// Both sides prove their NodeID in the TLS handshake, with the certificates of
// iroh-net 0.28.1, so real iroh-net nodes are peers. Each presents exactly one
// self-signed certificate; its key is fresh, and a critical extension
// (1.3.6.1.4.1.53594.1.1) holds
//
//	SEQUENCE { OCTET STRING NodeID (32), OCTET STRING signature (64) }
//
// where the signature, by the NodeID, covers "libp2p-tls-handshake:" and the
// DER SubjectPublicKeyInfo of the certificate's key. There are no chains, no
// server names, no session tickets and no 0-RTT (S3).
//
// crypto/tls does not tell which scheme signed the handshake, so one thing goes
// unchecked that iroh-net checks: that a P-384 key signs with SHA-384.
//
// A node that is not admitted gets no answer (S6): the socket passes on nothing
// of it, and Accept asks once more. With a ResetSalt a node that has restarted
// answers packets of connections it no longer has with stateless resets, at
// most ten a second to one node (S4).
//
// It knows nothing of IP packets or tunnels: that is internal/engine. All
// methods of Endpoint and Connection may be called concurrently. New starts
// nothing; Run works until its context ends; Connect and Accept wait for Run.
package endpoint
