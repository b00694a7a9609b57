package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayclient"
)

// What abuse may cost a relay (S26).
const (
	slowReaders = 64          // of one prefix, who take slowRate
	slowRate    = 4 << 10     // bytes a second
	slowMemory  = 160 << 20   // of the relay, at the most
	knocks      = 2000        // connections a second of one host
	knockers    = 100         // that open them
	knockLogin  = time.Second // in which another host logs in
)

// slow has one client send as much as the relay takes to clients that read slowly.
func slow(program string, length time.Duration) error {
	r, err := startRelay(program)
	if err != nil {
		return err
	}
	defer r.stop()
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	var readers []identity.NodeID
	for range slowReaders {
		id, conn, err := connectDeaf(r.url)
		if err != nil {
			return err
		}
		defer conn.Close()
		readers = append(readers, id)
		running.Go(func() {
			b := make([]byte, slowRate/10)
			for tick := time.NewTicker(100 * time.Millisecond); ; {
				select {
				case <-tick.C:
					if _, err := conn.Read(b); err != nil {
						return
					}
				case <-ctx.Done():
					tick.Stop()
					return
				}
			}
		})
	}
	_, sender, err := connectDeaf(r.url)
	if err != nil {
		return err
	}
	defer sender.Close()
	most, sent := int64(0), 0
	looked := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		// Frames of every size: each leaves another part of a block empty.
		payload := make([]byte, 50+i*2089%(60<<10))
		frame := relay.AppendPacket(nil, relay.TypeSendPacket, readers[i%len(readers)], payload)
		_ = sender.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := sender.Write(frame); err != nil {
			return fmt.Errorf("sender: %w", err)
		}
		sent += len(frame)
		if time.Since(looked) > 100*time.Millisecond {
			looked = time.Now()
			now, err := r.memory()
			if err != nil {
				return err
			}
			most = max(most, now)
		}
	}
	fmt.Printf("%d clients that read %d KiB/s, and %d MiB for them: the relay took %d MiB at the most\n", slowReaders, slowRate>>10, sent>>20, most>>20)
	return check("memory with slow readers", most <= slowMemory)
}

// knock has one host open connections as fast as it can, in a relay with the usual limits,
// while another one logs in again and again.
func knock(program string, length time.Duration) error {
	dir, err := os.MkdirTemp("", "relayload-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config := filepath.Join(dir, "relay.toml")
	// Plain HTTP, and so for this machine alone.
	text := "http_bind_addr = \"127.0.0.1:%d\"\naccess = \"everyone\"\nenable_stun = false\nenable_metrics = false\nlogins_file = %q\n"
	port, err := freePort()
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, text, port, filepath.Join(dir, "logins")), 0o600); err != nil {
		return err
	}
	r, err := startRelayWith(program, "--config", config)
	if err != nil {
		return err
	}
	defer r.stop()
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var knocking sync.WaitGroup
	defer knocking.Wait()
	var tried, opened atomic.Int64
	dialFrom := func(ip string) func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		return d.DialContext
	}
	for range knockers {
		knocking.Go(func() {
			dial := dialFrom("127.0.0.77")
			tick := time.NewTicker(knockers * time.Second / knocks)
			defer tick.Stop()
			for ctx.Err() == nil {
				tried.Add(1)
				if conn, err := dial(ctx, "tcp", r.url.Parsed().Host); err == nil {
					opened.Add(1)
					context.AfterFunc(ctx, func() { _ = conn.Close() }) // it stays, if the relay lets it
				}
				<-tick.C
			}
		})
	}
	most, logins := time.Duration(0), 0
	var failed error
	for ctx.Err() == nil {
		begin := time.Now()
		err := logInFrom(ctx, r.url, dialFrom("127.0.1.1"))
		if ctx.Err() != nil {
			break
		}
		failed = errors.Join(failed, err)
		most = max(most, time.Since(begin))
		logins++
		time.Sleep(200 * time.Millisecond)
	}
	fmt.Printf("one host tried %d connections in %v, %d were opened: of %d logins of another one the longest took %.0f ms\n",
		tried.Load(), length, opened.Load(), logins, float64(most)/float64(time.Millisecond))
	return errors.Join(failed, check("time of a login", most <= knockLogin && logins > 0))
}

// logInFrom logs a client in, and waits until the relay serves it.
func logInFrom(ctx context.Context, url identity.RelayURL, dial func(context.Context, string, string) (net.Conn, error)) error {
	key := identity.GenerateSecretKey()
	client, err := relayclient.Dial(ctx, relayclient.Config{URL: url, Key: key, Dial: dial})
	if err != nil {
		return err
	}
	m := &member{id: key.NodeID(), client: client}
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = client.Run(running, m) }()
	defer func() { stop(); <-ended }()
	client.Send(m.id, []byte("here"), 4)
	for ctx.Err() == nil {
		if got, _ := m.received(); got > 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}

// freePort is one that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
