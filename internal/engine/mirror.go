package engine

import (
	"slices"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
)

// reflect gives the host its own packets back, with their ends exchanged: what comes
// through shows that packets get from the host into the tunnel and out of it.
func (e *Engine) reflect(h vnet.Header, ip []byte, info *packet.Info) {
	err := vnet.Split(h, ip, e.cfg.MTU, func(segment []byte) error {
		if len(segment) < info.L4+4 {
			return nil
		}
		// The checksums stay right: they are sums.
		addrs, ports := segment[12:20], segment[info.L4:info.L4+4]
		if info.Version == 6 {
			addrs = segment[8:40]
		}
		rotate(addrs)
		rotate(ports)
		e.toHost(segment)
		return nil
	})
	if err != nil {
		e.count.drop(dropMalformed)
		return
	}
	e.reflected.Add(1)
}

// rotate exchanges the halves of b.
func rotate(b []byte) {
	half := slices.Clone(b[:len(b)/2])
	copy(b, b[len(b)/2:])
	copy(b[len(b)/2:], half)
}

// Reflected counts the packets that this host sent to its mirrors.
func (e *Engine) Reflected() uint64 { return e.reflected.Load() }
