package wire

import "log/slog"

// Hello is the first message of each side. JSON keys that are not known are
// ignored, here and in every message.
type Hello struct {
	// Version is the program's, for people.
	Version string `json:"version,omitempty"`
	// Instance is 16 random bytes in hex, new at each start.
	Instance string `json:"instance"`
	// Replaces is set by a dialler that had another connection with the receiver
	// up when it began to dial this one.
	Replaces bool `json:"replaces,omitempty"`
	// Features are what the sender understands beyond the minimum.
	Features []string `json:"features,omitempty"`
	// Name is the host name that the sender proposes for itself (S21).
	Name string `json:"name,omitempty"`
	// SSHHostKeys are lines "type base64" (S23).
	SSHHostKeys []string `json:"ssh_host_keys,omitempty"`
	// MTU is the largest inner packet that the sender takes, in bytes.
	MTU int `json:"mtu,omitempty"`
}

// Rules says what the sender lets the receiver do, such as "tcp/22".
type Rules struct {
	Rules []string `json:"rules"`
	// Until is when they end (RFC 3339), empty for never.
	Until string `json:"until,omitempty"`
	// SSHHostKeys are as in Hello: they are told with the rule that needs them.
	SSHHostKeys []string `json:"ssh_host_keys,omitempty"`
}

// Facts is what the sender knows of its network and of the way to the receiver.
// It is shown; all that is decided by it is whether to try to get through a hard
// NAT, and towards no address that a call-me-maybe did not name.
type Facts struct {
	NAT        NAT         `json:"nat"`
	Candidates []Candidate `json:"candidates,omitempty"`
	// Relay is the URL of the sender's home relay, empty for none.
	Relay string `json:"relay,omitempty"`
}

// NAT is what the sender found out about its own NAT.
type NAT struct {
	// Mapping is none, easy (the same for every destination), hard (another for
	// each), blocked (no UDP) or empty for unknown.
	Mapping   string `json:"mapping,omitempty"`
	Filtering string `json:"filtering,omitempty"`
	V4        bool   `json:"v4"`
	V6        bool   `json:"v6"`
	UDP       bool   `json:"udp"`
	// Portmap is the protocol of the port mapping in use, empty for none.
	Portmap string `json:"portmap,omitempty"`
	// Step is how far the ports of a hard NAT are apart that counts them up, 0
	// for one that does not.
	Step int `json:"step,omitempty"`
	// Public are the ip:port under which servers see the sender.
	Public []string `json:"public,omitempty"`
}

// Candidate is an address of the receiver that the sender knows. It is shown,
// never pinged (S9).
type Candidate struct {
	Addr       string `json:"addr"`
	Kind       string `json:"kind,omitempty"`
	LastResult string `json:"last_result,omitempty"`
	// RTT is in milliseconds, 0 for unknown.
	RTT float64 `json:"rtt_ms,omitempty"`
	// MTU is the largest UDP payload that arrives there, 0 when no limit was found.
	MTU int `json:"mtu,omitempty"`
}

// Join asks to become a peer, by the secret of an invite (S24).
type Join struct {
	// Secret has 16 bytes, base64 in JSON.
	Secret []byte `json:"secret"`
	// Name is the host name that the sender proposes for itself (S21).
	Name string `json:"name,omitempty"`
}

// String hides the secret.
func (j Join) String() string { return "Join(..)" }

// GoString hides the secret from %#v.
func (j Join) GoString() string { return j.String() }

// LogValue hides the secret from logs.
func (j Join) LogValue() slog.Value { return slog.StringValue(j.String()) }

// Joined answers a Join.
type Joined struct {
	OK bool `json:"ok"`
	// Reason says why not.
	Reason string `json:"reason,omitempty"`
	// Name is the host name that the sender proposes for itself (S21).
	Name string `json:"name,omitempty"`
}

// Goodbye says why the connection is about to end: shutdown, sleep, replaced.
type Goodbye struct {
	Reason string `json:"reason"`
}

// Ping is a request that is answered with the same message.
type Ping struct {
	Nonce int64 `json:"nonce"`
}
