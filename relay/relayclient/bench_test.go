//go:build unix

package relayclient_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayclient"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

// counter counts the bytes that arrive.
type counter struct {
	bytes atomic.Int64
	more  chan struct{} // holds one token when something arrived
}

func (c *counter) RelayPacket(_ identity.NodeID, payload []byte) {
	for len(payload) > 0 {
		d, rest, err := relay.NextDatagram(payload)
		if err != nil {
			return
		}
		c.bytes.Add(int64(len(d)))
		payload = rest
	}
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// cpuTime returns what this process has used so far, in seconds.
func cpuTime(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

func (*counter) RelayGone(identity.NodeID) {}
func (*counter) RelayHealth(string)        {}

// BenchmarkRelay sends datagrams of 1200 bytes from one client through a relay
// to another, all in this process over loopback TCP. The sender keeps at most
// a queue's worth in flight, as congestion control would.
func BenchmarkRelay(b *testing.B) {
	for _, secure := range []bool{false, true} {
		for _, batch := range []int{1, 10, 40} {
			b.Run(fmt.Sprintf("tls=%v/batch=%d", secure, batch), func(b *testing.B) { benchRelay(b, secure, batch) })
		}
	}
}

func benchRelay(b *testing.B, secure bool, batch int) {
	var cfg relayserver.Config
	var clientTLS *tls.Config
	cfg.Dev = true
	if secure {
		server, roots := relaytest.TLS(b)
		cfg.TLS, clientTLS = server, &tls.Config{RootCAs: roots}
	}
	r := relaytest.Start(b, cfg)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	defer wg.Wait()
	defer cancel()
	var got counter
	start := func(h relayclient.Handler) (*relayclient.Client, identity.NodeID) {
		key := identity.GenerateSecretKey()
		c, err := relayclient.Dial(ctx, relayclient.Config{URL: r.URL, Key: key, TLS: clientTLS})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() { _ = c.Run(ctx, h) })
		for c.RTT() == 0 {
			time.Sleep(time.Millisecond)
		}
		return c, key.NodeID()
	}
	got.more = make(chan struct{}, 1)
	_, dst := start(&got)
	src, _ := start(new(counter))

	const size = 1200
	pkts := make([]byte, batch*size)
	b.SetBytes(int64(len(pkts)))
	b.ReportAllocs()
	b.ResetTimer()
	begin, cpu := time.Now(), cpuTime(b)
	sent, lost := int64(0), int64(0)
	for range b.N {
		for sent-lost-got.bytes.Load() > window {
			select {
			case <-got.more:
			case <-time.After(200 * time.Millisecond):
				lost = sent - got.bytes.Load() // dropped on the way
			}
		}
		if !src.Send(dst, pkts, size) {
			b.Fatal("dropped by the client")
		}
		sent += int64(len(pkts))
	}
	for got.bytes.Load() < sent-lost {
		select {
		case <-got.more:
		case <-time.After(200 * time.Millisecond):
			lost = sent - got.bytes.Load()
		}
	}
	seconds := time.Since(begin).Seconds()
	cpu = cpuTime(b) - cpu
	b.StopTimer()
	arrived := float64(got.bytes.Load())
	b.ReportMetric(arrived*8/seconds/1e9, "Gbit/s")
	b.ReportMetric(cpu/(arrived/(1<<30)), "cpu-s/GiB")
	b.ReportMetric((float64(sent)-arrived)/float64(sent)*100, "%lost")
}

// window is how much may be on the way, in bytes: less than the queues hold.
const window = 700 << 10
