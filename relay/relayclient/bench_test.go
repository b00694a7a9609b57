package relayclient_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayclient"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

// counter counts the datagrams and bytes that arrive.
type counter struct{ datagrams, bytes atomic.Int64 }

func (c *counter) RelayPacket(_ identity.NodeID, payload []byte) {
	for len(payload) > 0 {
		d, rest, err := relay.NextDatagram(payload)
		if err != nil {
			return
		}
		c.bytes.Add(int64(len(d)))
		c.datagrams.Add(1)
		payload = rest
	}
}
func (*counter) RelayGone(identity.NodeID) {}
func (*counter) RelayHealth(string)        {}

// BenchmarkRelay sends datagrams of 1200 bytes from one client through a relay
// to another, all in this process over loopback TCP. The sender keeps at most
// half a queue in flight, as congestion control would.
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
	_, dst := start(&got)
	src, _ := start(new(counter))

	const size = 1200
	pkts := make([]byte, batch*size)
	b.SetBytes(int64(len(pkts)))
	b.ReportAllocs()
	b.ResetTimer()
	begin := time.Now()
	sent, lost := int64(0), int64(0)
	for range b.N {
		stuck := time.Now()
		for before := got.bytes.Load(); sent-lost-got.bytes.Load() > 400<<10; {
			runtime.Gosched()
			if now := got.bytes.Load(); now != before {
				before, stuck = now, time.Now()
			} else if time.Since(stuck) > 200*time.Millisecond {
				lost = sent - now // dropped on the way
			}
		}
		if !src.Send(dst, pkts, size) {
			b.Fatal("dropped by the client")
		}
		sent += int64(len(pkts))
	}
	for stuck := time.Now(); got.bytes.Load() < sent-lost && time.Since(stuck) < time.Second; {
		time.Sleep(time.Millisecond)
	}
	seconds := time.Since(begin).Seconds()
	b.StopTimer()
	b.ReportMetric(float64(got.bytes.Load())*8/seconds/1e9, "Gbit/s")
	b.ReportMetric(float64(sent-got.bytes.Load())/float64(sent)*100, "%lost")
}
