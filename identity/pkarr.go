package identity

import (
	"crypto/ed25519"
	"fmt"
)

// PkarrMessage returns what the signature of a pkarr packet covers (BEP 44, without
// salt): "3:seqi<timestamp>e1:v<length>:" and the DNS message.
func PkarrMessage(timestamp uint64, message []byte) []byte {
	return append(fmt.Appendf(nil, "3:seqi%de1:v%d:", timestamp, len(message)), message...)
}

// SignPkarr signs a DNS message that says where this node may be found, as of a time in
// microseconds since 1970 (S1).
func (k *SecretKey) SignPkarr(timestamp uint64, message []byte) []byte {
	return ed25519.Sign(k.private, PkarrMessage(timestamp, message))
}
