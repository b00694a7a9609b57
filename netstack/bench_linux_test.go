package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// throughput moves data one way for a while and reports Gbit/s.
func throughput(b *testing.B, flows int, move func(ctx context.Context, i int) (int64, error)) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	type result struct {
		n   int64
		err error
	}
	results := make(chan result, flows)
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	begin := time.Now()
	for i := range flows {
		go func() {
			n, err := move(ctx, i)
			results <- result{n, err}
		}()
	}
	var total int64
	for range flows {
		r := <-results
		if r.err != nil {
			b.Error(r.err)
		}
		total += r.n
	}
	took := time.Since(begin)
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(total)*8/took.Seconds()/1e9, "Gbit/s")
	b.ReportMetric(cpu.Seconds()/(float64(total)/(1<<30)), "CPU-s/GiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkNetnsSink is kernel to flow, MTU 1420: a program writes, a handler
// reads and throws away.
func BenchmarkNetnsSink(b *testing.B) {
	for _, flows := range []int{1, 4} {
		b.Run(fmt.Sprintf("%dflows", flows), func(b *testing.B) {
			for b.Loop() {
				counts := make(chan int64, flows)
				h := newHost(b, func(req *Pending) {
					f, err := req.Accept()
					if err != nil {
						b.Error(err)
						return
					}
					defer f.Close()
					buf := make([]byte, 256<<10)
					var total int64
					for {
						n, err := f.Read(buf)
						total += int64(n)
						if err != nil {
							counts <- total
							return
						}
					}
				})
				conns := make([]*net.TCPConn, flows)
				for i := range conns {
					var err error
					if conns[i], err = h.dial(b, netip.AddrPortFrom(behind4, 22), 5*time.Second); err != nil {
						b.Fatal(err)
					}
				}
				throughput(b, flows, func(ctx context.Context, i int) (int64, error) {
					data := make([]byte, 256<<10)
					for ctx.Err() == nil {
						if _, err := conns[i].Write(data); err != nil {
							return 0, err
						}
					}
					conns[i].Close()
					return <-counts, nil
				})
			}
		})
	}
}

// BenchmarkNetnsSource is flow to kernel, MTU 1420: the stack dials and writes,
// a program reads and throws away.
func BenchmarkNetnsSource(b *testing.B) {
	for _, flows := range []int{1, 4} {
		b.Run(fmt.Sprintf("%dflows", flows), func(b *testing.B) {
			for b.Loop() {
				h := newHost(b, nil)
				l := h.listen(b, kernel4)
				dst := l.Addr().(*net.TCPAddr).AddrPort()
				throughput(b, flows, func(ctx context.Context, i int) (int64, error) {
					f, err := h.Dial(ctx, netip.AddrPortFrom(behind4, 0), dst)
					if err != nil {
						return 0, err
					}
					conn, err := l.AcceptTCP()
					if err != nil {
						return 0, err
					}
					counts := make(chan int64, 1)
					go func() {
						buf := make([]byte, 256<<10)
						var total int64
						for {
							n, err := conn.Read(buf)
							total += int64(n)
							if err != nil {
								counts <- total
								return
							}
						}
					}()
					data := make([]byte, 256<<10)
					for ctx.Err() == nil {
						if _, err := f.Write(data); err != nil {
							return 0, err
						}
					}
					f.Close()
					return <-counts, nil
				})
			}
		})
	}
}

// echo answers every flow with what it says.
func echo(req *Pending) {
	f, err := req.Accept()
	if err != nil {
		return
	}
	defer f.Close()
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return
		}
	}
}

// BenchmarkNetnsRoundTrip is one byte from a program to a flow and back.
func BenchmarkNetnsRoundTrip(b *testing.B) {
	h := newHost(b, echo)
	conn, err := h.dial(b, netip.AddrPortFrom(behind4, 22), 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write([]byte{1}); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNetnsConnect is a program that connects, and a flow that dials.
func BenchmarkNetnsConnect(b *testing.B) {
	b.Run("accept", func(b *testing.B) {
		h := newHost(b, func(req *Pending) {
			if f, err := req.Accept(); err == nil {
				_, _ = f.Read(make([]byte, 1))
				f.Close()
			}
		})
		h.ns.Do(b, func() {
			for b.Loop() {
				conn, err := net.Dial("tcp", netip.AddrPortFrom(behind4, 22).String())
				if err != nil {
					b.Fatal(err)
				}
				_ = conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		})
	})
	b.Run("dial", func(b *testing.B) {
		h := newHost(b, nil)
		l := h.listen(b, kernel4)
		dst := l.Addr().(*net.TCPAddr).AddrPort()
		for b.Loop() {
			f, err := h.Dial(b.Context(), netip.AddrPortFrom(behind4, 0), dst)
			if err != nil {
				b.Fatal(err)
			}
			conn, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			f.Abort()
			conn.Close()
		}
	})
}

// BenchmarkNetnsIdleFlows tells what an open flow costs that does nothing.
func BenchmarkNetnsIdleFlows(b *testing.B) {
	const flows = 1000
	for b.Loop() {
		ready := make(chan struct{}, flows)
		h := newHost(b, func(req *Pending) {
			f, err := req.Accept()
			if err != nil {
				b.Error(err)
				return
			}
			defer f.Close()
			ready <- struct{}{}
			_, _ = f.Read(make([]byte, 1))
		})
		used := func() float64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.HeapInuse + m.StackInuse)
		}
		before := used()
		for range flows {
			if _, err := h.dial(b, netip.AddrPortFrom(behind4, 22), 5*time.Second); err != nil {
				b.Fatal(err)
			}
			<-ready
		}
		b.ReportMetric((used()-before)/flows/1024, "KiB/flow")
	}
}
