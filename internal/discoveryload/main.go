package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

func main() {
	program := flag.String("nodetun", "nodetun", "the program to test")
	store := flag.String("store", "", "what its --store is; empty: memory")
	records := flag.Int("records", 100_000, "nodes that publish")
	clients := flag.Int("clients", 64, "that put, or ask, at one time")
	seconds := flag.Int("seconds", 10, "for which the DNS is asked")
	flag.Parse()
	if err := run(*program, *store, *records, *clients, time.Duration(*seconds)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "discoveryload:", err)
		os.Exit(1)
	}
}

func run(program, store string, records, clients int, length time.Duration) error {
	s, err := startServer(program, store)
	if err != nil {
		return err
	}
	defer s.stop()
	// Signing takes longer than storing: it is done before.
	packets, err := sign(records)
	if err != nil {
		return err
	}
	put, err := s.measure(clients, func(client int) func() error {
		c := pkarr.Client{URL: s.url + "/pkarr", HTTP: s.http}
		return func() error {
			p, ok := packets.next()
			if !ok {
				return io.EOF
			}
			return c.Put(context.Background(), p)
		}
	})
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	put.print("put")
	end := time.Now().Add(length)
	asked, err := s.measure(clients, func(int) func() error {
		ask, err := s.asker()
		return func() error {
			if err != nil || time.Now().After(end) {
				return errors.Join(err, io.EOF)
			}
			return ask(packets.any())
		}
	})
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	asked.print("DNS query")
	memory, err := s.memory()
	if err != nil {
		return err
	}
	fmt.Printf("memory       %d MiB with %d packets\n", memory>>20, records)
	return nil
}

// packetList is packets of as many nodes.
type packetList struct {
	list []pkarr.Packet
	at   atomic.Int64
}

func sign(count int) (*packetList, error) {
	l := &packetList{list: make([]pkarr.Packet, count)}
	relay, err := identity.ParseRelayURL("https://relay.example.com")
	if err != nil {
		return nil, err
	}
	var tasks sync.WaitGroup
	var failed atomic.Pointer[error]
	const signers = 4
	for i := range signers {
		tasks.Go(func() {
			for n := i; n < count; n += signers {
				key := identity.GenerateSecretKey()
				p, err := pkarr.NewSigner(key, 0, nil).Sign(time.Now(), identity.NodeAddr{ID: key.NodeID(), Relay: relay})
				if err != nil {
					failed.Store(&err)
					return
				}
				l.list[n] = p
			}
		})
	}
	tasks.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	return l, nil
}

func (l *packetList) next() (pkarr.Packet, bool) {
	i := l.at.Add(1) - 1
	if i >= int64(len(l.list)) {
		return pkarr.Packet{}, false
	}
	return l.list[i], true
}

func (l *packetList) any() identity.NodeID { return l.list[rand.IntN(len(l.list))].ID() }

// asker asks one question after the other by UDP.
func (s *server) asker() (func(identity.NodeID) error, error) {
	conn, err := net.Dial("udp", s.dns)
	if err != nil {
		return nil, err
	}
	c := &dns.Conn{Conn: conn}
	return func(id identity.NodeID) error {
		m := new(dns.Msg).SetQuestion("_iroh."+id.Z32()+".", dns.TypeTXT)
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if err := c.WriteMsg(m); err != nil {
			return err
		}
		res, err := c.ReadMsg()
		if err != nil {
			return err
		}
		if res.Id != m.Id || len(res.Answer) != 1 {
			return fmt.Errorf("a wrong answer: %v", res)
		}
		return nil
	}, nil
}

// figures is what many calls took.
type figures struct {
	took  []time.Duration // each, in order
	all   time.Duration
	spent time.Duration // processor time of the server
}

func (f figures) print(what string) {
	n := len(f.took)
	fmt.Printf("%-12s %d in %.1f s: %.0f/s, p50 %.1f ms, p99 %.1f ms; %.0f µs of the server's processor time each\n", what, n, f.all.Seconds(),
		float64(n)/f.all.Seconds(), ms(f.took[n/2]), ms(f.took[n*99/100]), float64(f.spent)/float64(n)/float64(time.Microsecond))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// measure has clients call what make gives them until it returns io.EOF.
func (s *server) measure(clients int, make func(client int) func() error) (f figures, err error) {
	before, err := s.spent()
	if err != nil {
		return f, err
	}
	began := time.Now()
	var mu sync.Mutex // guards f.took and err
	var tasks sync.WaitGroup
	for client := range clients {
		tasks.Go(func() {
			call := make(client)
			var took []time.Duration
			for {
				at := time.Now()
				callErr := call()
				if callErr != nil {
					mu.Lock()
					defer mu.Unlock()
					if !errors.Is(callErr, io.EOF) {
						err = callErr
					}
					f.took = append(f.took, took...)
					return
				}
				took = append(took, time.Since(at))
			}
		})
	}
	tasks.Wait()
	f.all = time.Since(began)
	after, spentErr := s.spent()
	f.spent = after - before
	slices.Sort(f.took)
	if err = errors.Join(err, spentErr); err == nil && len(f.took) == 0 {
		err = errors.New("nothing was done")
	}
	return f, err
}

func newHTTP(clients int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
}
