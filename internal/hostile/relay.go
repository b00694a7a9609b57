package hostile

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// Relay is a relay that lets everybody in, sometimes forwards, and otherwise does what it can
// to its clients: it has their packets, their keys and their attention. It speaks version 3 of
// the protocol over plain HTTP.
type Relay struct {
	// Each is how long one attack goes on, at the most.
	Each time.Duration

	mu       sync.Mutex // guards the fields below
	rand     *rand.Rand
	clients  map[identity.NodeID]*relayClient
	recorded []record // what was forwarded last
	done     map[string]int
}

// record is a packet that a client sent to another one.
type record struct {
	src, dst identity.NodeID
	payload  []byte
}

const maxRecorded = 512

// NewRelay makes a relay; what it does follows from the seed and from its clients.
func NewRelay(seed uint64) *Relay {
	return &Relay{
		Each: time.Second, rand: rand.New(rand.NewPCG(seed, 0)), clients: make(map[identity.NodeID]*relayClient), done: make(map[string]int),
	}
}

// Done says how often each attack was begun.
func (r *Relay) Done() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.done)
}

// roll returns a number below n.
func (r *Relay) roll(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rand.IntN(n)
}

// noise fills b.
func (r *Relay) noise(b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range b {
		b[i] = byte(r.rand.Uint32())
	}
	return b
}

// Serve takes clients from l until ctx ends; then it closes all.
func (r *Relay) Serve(ctx context.Context, l net.Listener) {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			r.serve(ctx, conn)
		})
	}
}

// refusals are answers in place of an upgrade.
var refusals = []string{
	"HTTP/1.1 503 Go away\r\nNodetun-Refusal: \x1b]52;c;ZXZpbA==\x07 no\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:22/\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 99999999999\r\n\r\n",
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
	"HTTP/1.1 101 Switching Protocols\r\nX: " + strings.Repeat("y", 1<<20) + "\r\n\r\n",
	"\x00\x00\x00\x00",
	"",
}

func (r *Relay) serve(ctx context.Context, conn net.Conn) {
	br := bufio.NewReader(conn)
	request, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	if request.URL.Path != "/relay" {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		return
	}
	if r.roll(8) == 0 {
		answer := refusals[r.roll(len(refusals))]
		_, _ = io.WriteString(conn, answer)
		if answer == "" { // and then nothing
			pause(ctx, time.Duration(r.roll(15))*time.Second)
		}
		return
	}
	head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: iroh derp http\r\n"
	var challenge *relay.Challenge
	if host := request.Header.Get(relay.LoginHeader); host != "" {
		challenge = &relay.Challenge{Host: host}
		r.noise(challenge.Data[:])
		head += fmt.Sprintf("%s: %x\r\n", relay.ChallengeHeader, challenge.Data)
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return
	}
	frames := relay.NewReader(br, nil)
	_, body, err := frames.Next()
	if err != nil {
		return
	}
	id, _, err := relay.ParseClientInfo(body, challenge)
	if err != nil {
		return
	}
	c := &relayClient{relay: r, id: id, conn: conn}
	r.enter(c)
	defer r.leave(c)
	attacking, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.attack(attacking) })
	c.read(frames)
	stop()
	_ = conn.Close()
	wg.Wait()
}

func (r *Relay) enter(c *relayClient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[c.id] = c
}

func (r *Relay) leave(c *relayClient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients[c.id] == c {
		delete(r.clients, c.id)
	}
}

// other is another client, or the same if it is alone.
func (r *Relay) other(id identity.NodeID) identity.NodeID {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other := range r.clients {
		if other != id {
			return other
		}
	}
	return id
}

// keep remembers a packet, and returns where it is to go.
func (r *Relay) keep(p record) *relayClient {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recorded) < maxRecorded {
		r.recorded = append(r.recorded, p)
	} else {
		r.recorded[r.rand.IntN(maxRecorded)] = p
	}
	return r.clients[p.dst]
}

// anyRecord returns what was forwarded at some time.
func (r *Relay) anyRecord() (record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recorded) == 0 {
		return record{}, false
	}
	return r.recorded[r.rand.IntN(len(r.recorded))], true
}

// relayClient is one connection.
type relayClient struct {
	relay *Relay
	id    identity.NodeID
	conn  net.Conn

	mu      sync.Mutex // one write at a time; guards reading
	stalled time.Time  // until then nothing is read
}

// write writes frames, or gives the connection up.
func (c *relayClient) write(frames []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, err := c.conn.Write(frames)
	return err
}

// read takes what the client sends, and forwards most of it.
func (c *relayClient) read(frames *relay.Reader) {
	for {
		c.mu.Lock()
		stall := time.Until(c.stalled)
		c.mu.Unlock()
		if stall > 0 {
			time.Sleep(stall)
		}
		t, body, err := frames.Next()
		if err != nil {
			return
		}
		switch t {
		case relay.TypePing:
			if data, err := relay.ParsePing(body); err == nil && c.relay.roll(10) > 0 {
				_ = c.write(relay.AppendPong(nil, data))
			}
		case relay.TypeSendPacket:
			dst, payload, err := relay.ParsePacket(body)
			if err != nil {
				return
			}
			p := record{c.id, dst, append([]byte(nil), payload...)}
			if to := c.relay.keep(p); to != nil && c.relay.roll(4) > 0 {
				_ = to.write(relay.AppendPacket(nil, relay.TypeRecvPacket, p.src, p.payload))
			}
		}
	}
}

// attacks are what a relay does to a client that is logged in, each until its time is over or
// the connection is.
var attacks = []struct {
	name string
	do   func(c *relayClient) error
}{
	{"strangers", (*relayClient).strangers},
	{"impostor", (*relayClient).impostor},
	{"disco", (*relayClient).disco},
	{"replay", (*relayClient).replay},
	{"pings", func(c *relayClient) error {
		return c.write(relay.AppendPing(nil, [8]byte(c.relay.noise(make([]byte, 8)))))
	}},
	{"pongs", func(c *relayClient) error {
		return c.write(relay.AppendPong(nil, [8]byte(c.relay.noise(make([]byte, 8)))))
	}},
	{"texts", func(c *relayClient) error {
		text := "\x1b]0;evil\x07\u202e" + string(c.relay.noise(make([]byte, c.relay.roll(16<<10))))
		return c.write(relay.AppendHealth(nil, text))
	}},
	{"gone", func(c *relayClient) error { return c.write(relay.AppendPeerGone(nil, c.relay.other(c.id))) }},
	{"keep-alives", func(c *relayClient) error {
		frames := []byte(nil)
		for range 1000 {
			frames = relay.AppendKeepAlive(frames)
		}
		return c.write(frames)
	}},
	{"restarts", func(c *relayClient) error { return c.write(relay.AppendRestarting(nil, 0, time.Hour)) }},
	{"stall", func(c *relayClient) error {
		c.mu.Lock()
		c.stalled = time.Now().Add(5 * time.Second)
		c.mu.Unlock()
		time.Sleep(100 * time.Millisecond)
		return nil
	}},
	{"bad frames", (*relayClient).badFrame},
	{"close", func(c *relayClient) error { return c.conn.Close() }},
	{"peace", func(*relayClient) error { time.Sleep(100 * time.Millisecond); return nil }},
}

func (c *relayClient) attack(ctx context.Context) {
	for ctx.Err() == nil {
		a := attacks[c.relay.roll(len(attacks))]
		c.relay.mu.Lock()
		c.relay.done[a.name]++
		c.relay.mu.Unlock()
		for end := time.Now().Add(c.relay.Each * time.Duration(1+c.relay.roll(8)) / 8); time.Now().Before(end); {
			if ctx.Err() != nil || a.do(c) != nil {
				return
			}
		}
	}
}

// strangers sends packets from nodes that are nobody.
func (c *relayClient) strangers() error {
	var id identity.NodeID
	c.relay.noise(id[:])
	payload := make([]byte, 1+c.relay.roll(relay.MaxPayload-1))
	c.relay.noise(payload[:min(len(payload), 64)])
	return c.write(relay.AppendPacket(nil, relay.TypeRecvPacket, id, payload))
}

// impostor sends packets in the name of another client: batches of what looks like QUIC, cut
// off, of no length.
func (c *relayClient) impostor() error {
	var payload []byte
	for range 1 + c.relay.roll(20) {
		d := c.relay.noise(make([]byte, 1+c.relay.roll(1400)))
		switch c.relay.roll(4) {
		case 0:
			d[0] = 0x40 | d[0]&0x3f // a short header
		case 1: // an Initial
			d[0] = 0xc3
			if len(d) > 4 {
				binary.BigEndian.PutUint32(d[1:], 1)
			}
		}
		payload = relay.AppendDatagram(payload, d)
	}
	return c.write(relay.AppendPacket(nil, relay.TypeRecvPacket, c.relay.other(c.id), payload[:len(payload)-c.relay.roll(3)]))
}

// disco sends messages of path discovery that another client is said to have sealed.
func (c *relayClient) disco() error {
	from := c.relay.other(c.id)
	message := append([]byte("TS\xf0\x9f\x92\xac"), from[:]...)
	message = append(message, c.relay.noise(make([]byte, 24+c.relay.roll(200)))...)
	return c.write(relay.AppendPacket(nil, relay.TypeRecvPacket, from, relay.AppendDatagram(nil, message)))
}

// replay sends what was sent before, to whom it was meant or not.
func (c *relayClient) replay() error {
	p, ok := c.relay.anyRecord()
	if !ok {
		time.Sleep(10 * time.Millisecond)
		return nil
	}
	return c.write(relay.AppendPacket(nil, relay.TypeRecvPacket, p.src, p.payload))
}

// badFrame sends what is no frame.
func (c *relayClient) badFrame() error {
	frame := c.relay.noise(make([]byte, relay.HeaderLen+c.relay.roll(100)))
	if c.relay.roll(2) == 0 {
		frame[0] = byte(relay.TypeRecvPacket)
	}
	return c.write(frame)
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
