package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayclient"
)

// memoryLimit is what one idle client may cost the relay.
const memoryLimit = 32 << 10

// floods is how many clients flood one, and talkers how many pairs talk meanwhile.
// Those who flood send batches of packets of 1200 bytes, some in a second each: all
// together 120 MB/s. More would be a test of how two processes share the processors.
const (
	floods     = 100
	floodRate  = 1000
	floodBatch = 10
	talkers    = 100
)

func main() {
	program := flag.String("nodetun", "nodetun", "the program to test")
	clients := flag.Int("clients", 5000, "clients on the relay")
	seconds := flag.Int("seconds", 10, "length of each part")
	flag.Parse()
	if err := run(*program, *clients, time.Duration(*seconds)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "relayload:", err)
		os.Exit(1)
	}
}

func run(program string, clients int, length time.Duration) error {
	r, err := startRelay(program)
	if err != nil {
		return err
	}
	defer r.stop()
	empty, err := r.memory()
	if err != nil {
		return err
	}
	begin := time.Now()
	crowd, err := connect(r.url, clients)
	if err != nil {
		return err
	}
	defer crowd.leave()
	idle, err := r.memory()
	if err != nil {
		return err
	}
	each := (idle - empty) / int64(clients)
	fmt.Printf("%d clients connected in %.1f s; the relay takes %d MiB, %.1f KiB for each\n",
		clients, time.Since(begin).Seconds(), idle>>20, float64(each)/1024)
	return errors.Join(crowd.everyone(r, length), crowd.flood(r, length), check("memory of a client", each <= memoryLimit),
		slow(program, length), knock(program, length))
}

// check returns an error that names what did not hold.
func check(what string, ok bool) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%s: more than promised", what)
}

// member is one client.
type member struct {
	id     identity.NodeID
	client *relayclient.Client

	mu   sync.Mutex // guards the fields below
	got  int
	late []time.Duration // how long packets with a stamp were under way
}

// RelayPacket counts datagrams.
func (m *member) RelayPacket(_ identity.NodeID, payload []byte) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(payload) > 0 {
		d, rest, err := relay.NextDatagram(payload)
		if err != nil {
			return
		}
		m.got++
		if sent, ok := stampOf(d); ok {
			m.late = append(m.late, now.Sub(sent))
		}
		payload = rest
	}
}

// RelayGone does nothing.
func (*member) RelayGone(identity.NodeID) {}

// RelayHealth does nothing.
func (*member) RelayHealth(string) {}

func (m *member) received() (int, []time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.got, slices.Clone(m.late)
}

// crowd is all clients.
type crowd struct {
	members []*member
	running sync.WaitGroup
	cancel  context.CancelFunc
}

// connect logs all clients in, some at a time.
func connect(url identity.RelayURL, n int) (*crowd, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{members: make([]*member, n), cancel: cancel}
	work := make(chan int)
	errs := make(chan error, 64)
	var dialling sync.WaitGroup
	for range cap(errs) {
		dialling.Go(func() {
			for i := range work {
				key := identity.GenerateSecretKey()
				client, err := relayclient.Dial(ctx, relayclient.Config{URL: url, Key: key})
				if err != nil {
					errs <- err
					return
				}
				m := &member{id: key.NodeID(), client: client}
				c.members[i] = m
				c.running.Go(func() { _ = client.Run(ctx, m) })
			}
		})
	}
	var err error
	for i := 0; i < n && err == nil; i++ {
		select {
		case work <- i:
		case err = <-errs:
		}
	}
	close(work)
	dialling.Wait()
	if err != nil {
		c.leave()
		return nil, err
	}
	// A client that was let in is told nothing: a packet to itself tells.
	for _, m := range c.members {
		m.client.Send(m.id, []byte("here"), 4)
	}
	want := slices.Repeat([]int{1}, n)
	if !c.await(want, 30*time.Second) {
		c.leave()
		return nil, errors.New("not every client was let in")
	}
	return c, nil
}

// await waits until each member has received as many datagrams as want says of it.
func (c *crowd) await(want []int, limit time.Duration) bool {
	for begin := time.Now(); time.Since(begin) < limit; time.Sleep(20 * time.Millisecond) {
		behind := false
		for i, m := range c.members {
			got, _ := m.received()
			behind = behind || got < want[i]
		}
		if !behind {
			return true
		}
	}
	return false
}

func (c *crowd) leave() {
	c.cancel()
	c.running.Wait()
}

// everyone has each client send one packet a second to the next one.
func (c *crowd) everyone(r *relayProcess, length time.Duration) error {
	const size = 100
	rounds := int(length / time.Second)
	want := make([]int, len(c.members))
	for i, m := range c.members {
		got, _ := m.received()
		want[i] = got + rounds
	}
	cpu, err := r.cpu()
	if err != nil {
		return err
	}
	// The packets of one second leave one by one, as those of clients that know
	// nothing of each other.
	gap := time.Second / time.Duration(len(c.members))
	begin := time.Now()
	for k := range rounds * len(c.members) {
		if wait := time.Until(begin.Add(time.Duration(k) * gap)); wait > time.Millisecond {
			time.Sleep(wait)
		}
		i := k % len(c.members)
		c.members[i].client.Send(c.members[(i+1)%len(c.members)].id, stamp(size), size)
	}
	took := time.Since(begin)
	whole := c.await(want, 5*time.Second)
	used, err := r.cpu()
	if err != nil {
		return err
	}
	lost := 0
	var late []time.Duration
	for i, m := range c.members {
		got, all := m.received()
		lost += want[i] - got
		late = append(late, all...)
	}
	fmt.Printf("%d packets of %d bytes in %.1f s, %d lost; under way for %s; the relay used %.0f %% of a CPU\n",
		rounds*len(c.members), size, took.Seconds(), lost, quantiles(late), 100*(used-cpu)/took.Seconds())
	return check("lost packets", whole && lost == 0)
}

// flood has many clients send as fast as they can to one that does not read, while
// others talk.
func (c *crowd) flood(r *relayProcess, length time.Duration) error {
	if len(c.members) < floods+2*talkers {
		return fmt.Errorf("the flood needs %d clients", floods+2*talkers)
	}
	deaf, conn, err := connectDeaf(r.url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	memory, err := r.memory()
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	for _, m := range c.members[:floods] {
		sending.Go(func() {
			batch := make([]byte, floodBatch*1200)
			tick := time.NewTicker(time.Second * floodBatch / floodRate)
			defer tick.Stop()
			for ctx.Err() == nil {
				m.client.Send(deaf, batch, 1200)
				<-tick.C
			}
		})
	}
	type talk struct {
		from, to     *member
		before, sent int
		skip         int
	}
	talks := make([]talk, talkers)
	for i := range talks {
		t := &talks[i]
		t.from, t.to = c.members[floods+2*i], c.members[floods+2*i+1]
		got, late := t.to.received()
		t.before, t.skip = got, len(late)
		sending.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					t.from.client.Send(t.to.id, stamp(200), 200)
					t.sent++
				case <-ctx.Done():
					return
				}
			}
		})
	}
	sending.Wait()
	want := make([]int, len(c.members))
	for i, t := range talks {
		want[floods+2*i+1] = t.before + t.sent
	}
	whole := c.await(want, 5*time.Second)
	sent, lost := 0, 0
	var late []time.Duration
	for _, t := range talks {
		got, all := t.to.received()
		sent += t.sent
		lost += t.before + t.sent - got
		late = append(late, all[t.skip:]...)
	}
	after, err := r.memory()
	if err != nil {
		return err
	}
	fmt.Printf("%d clients flood one that does not read with %d packets/s each: of %d packets of %d others %d lost, under way for %s; the relay takes %d MiB more\n",
		floods, floodRate, sent, talkers, lost, quantiles(late), (after-memory)>>20)
	return check("packets that others lost", whole && lost == 0)
}

// connectDeaf logs a client in that never reads.
func connectDeaf(url identity.RelayURL) (identity.NodeID, net.Conn, error) {
	key := identity.GenerateSecretKey()
	conn, err := net.Dial("tcp", url.Parsed().Host)
	if err != nil {
		return identity.NodeID{}, nil, err
	}
	_, err = fmt.Fprintf(conn, "GET /relay HTTP/1.1\r\nHost: relay\r\nUpgrade: iroh derp http\r\n\r\n")
	var head strings.Builder
	for one := make([]byte, 1); err == nil && !strings.HasSuffix(head.String(), "\r\n\r\n"); {
		if _, err = conn.Read(one); err == nil {
			head.Write(one)
		}
	}
	if err == nil {
		_, err = conn.Write(relay.AppendClientInfo(nil, key))
	}
	if err == nil && !strings.HasPrefix(head.String(), "HTTP/1.1 101") {
		err = fmt.Errorf("the relay says %q", head.String())
	}
	return key.NodeID(), conn, err
}

// stamp makes a datagram that tells when it was made.
func stamp(size int) []byte {
	b := make([]byte, size)
	text, _ := time.Now().MarshalBinary()
	b[0] = byte(len(text))
	copy(b[1:], text)
	return b
}

func stampOf(b []byte) (time.Time, bool) {
	var t time.Time
	if len(b) < 20 || int(b[0]) > len(b)-1 {
		return t, false
	}
	return t, t.UnmarshalBinary(b[1:1+b[0]]) == nil
}

// quantiles words how long things took.
func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[int(q*float64(len(all)-1))] }
	round := func(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }
	return round(at(0.5)) + " ms (median), " + round(at(0.99)) + " ms (99 %), " + round(at(1)) + " ms (most)"
}
