package udpconn

import "sync/atomic"

// Stats counts what passed one socket since it was opened, rebinds included.
type Stats struct {
	RxBytes, TxBytes     uint64
	RxPackets, TxPackets uint64
	// RxCalls and TxCalls are the system calls that moved data.
	RxCalls, TxCalls uint64
	// RxGRO is the number of messages that held several packets, TxGSO the
	// number of sends that did.
	RxGRO, TxGSO uint64
	// Truncated messages lost their tail, because the buffer was too small.
	Truncated uint64
	// TooBig packets were larger than the link takes.
	TooBig uint64
	// TxErrors are sends that failed in another way.
	TxErrors uint64
	// RxErrors are reads that ended the life of a file descriptor.
	RxErrors uint64
}

type counters struct {
	rxBytes, txBytes, rxPackets, txPackets, rxCalls, txCalls, rxGRO, txGSO atomic.Uint64
	truncated, tooBig, txErrors, rxErrors                                  atomic.Uint64
}

// sent counts one successful call; seg is 0 for a single packet.
func (c *counters) sent(n, seg int) {
	c.txCalls.Add(1)
	c.txBytes.Add(uint64(n))
	if seg == 0 {
		c.txPackets.Add(1)
		return
	}
	c.txPackets.Add(uint64((n + seg - 1) / seg))
	c.txGSO.Add(1)
}

// received counts one successful call that filled ms.
func (c *counters) received(ms []Message) {
	var bytes, packets, gro uint64
	for i := range ms {
		m := &ms[i]
		bytes += uint64(m.N)
		if m.Seg > 0 && m.Seg < m.N {
			packets += uint64((m.N + m.Seg - 1) / m.Seg)
			gro++
			continue
		}
		packets++
	}
	c.rxCalls.Add(1)
	c.rxBytes.Add(bytes)
	c.rxPackets.Add(packets)
	if gro > 0 {
		c.rxGRO.Add(gro)
	}
}

// Stats takes a snapshot.
func (c *Conn) Stats() Stats {
	s := &c.stats
	return Stats{
		RxBytes: s.rxBytes.Load(), TxBytes: s.txBytes.Load(),
		RxPackets: s.rxPackets.Load(), TxPackets: s.txPackets.Load(),
		RxCalls: s.rxCalls.Load(), TxCalls: s.txCalls.Load(),
		RxGRO: s.rxGRO.Load(), TxGSO: s.txGSO.Load(),
		Truncated: s.truncated.Load(), TooBig: s.tooBig.Load(), TxErrors: s.txErrors.Load(),
		RxErrors: s.rxErrors.Load(),
	}
}
