package relayclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayclient"
)

// fakeRelay speaks the server's side by hand, on a pipe.
type fakeRelay struct {
	t      *testing.T
	conn   net.Conn
	frames *relay.Reader
}

// dialFake dials a fake relay, which has read the login when it returns.
func dialFake(t *testing.T, request *http.Request) (*relayclient.Client, *fakeRelay) {
	t.Helper()
	ours, theirs := net.Pipe()
	f := &fakeRelay{t: t, conn: theirs}
	login := make(chan error, 1)
	go func() { login <- f.logIn(request) }()
	c, err := relayclient.Dial(t.Context(), relayclient.Config{
		URL: url(t, "http://relay.example:3340/some/path"), Key: identity.GenerateSecretKey(),
		Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-login; err != nil {
		t.Fatal(err)
	}
	return c, f
}

func (f *fakeRelay) logIn(request *http.Request) error {
	br := bufio.NewReader(f.conn)
	got, err := http.ReadRequest(br)
	if err != nil {
		return err
	}
	if request != nil {
		*request = *got
	}
	if br.Buffered() > 0 {
		return errors.New("the client did not wait for the answer")
	}
	// iroh's relays answer without Connection header, and the first frame may
	// come in the same segment.
	_, err = io.WriteString(f.conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: iroh derp http\r\n\r\n"+
		string(relay.AppendHealth(nil, "welcome")))
	if err != nil {
		return err
	}
	f.frames = relay.NewReader(br, nil)
	_, body, err := f.frames.Next()
	if err != nil {
		return err
	}
	_, _, err = relay.ParseClientInfo(body, nil)
	return err
}

func (f *fakeRelay) expect(want relay.Type) []byte {
	f.t.Helper()
	typ, body, err := f.frames.Next()
	if err != nil || typ != want {
		f.t.Fatalf("got %v, %v, want %v", typ, err, want)
	}
	return body
}

func TestUpgradeRequest(t *testing.T) {
	var request http.Request
	c, f := dialFake(t, &request)
	defer f.conn.Close()
	defer c.Close()
	if request.Method != "GET" || request.RequestURI != "/relay" || request.Host != "relay.example:3340" || request.Header.Get("Upgrade") != "iroh derp http" ||
		request.Header.Get(relay.LoginHeader) != "relay.example:3340" {
		t.Errorf("%+v", request)
	}
}

// challenges is an upgrade with these challenges.
func challenges(list ...string) string {
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: iroh derp http\r\n"
	for _, c := range list {
		head += relay.ChallengeHeader + ": " + c + "\r\n"
	}
	return head + "\r\n"
}

func TestDialErrors(t *testing.T) {
	for name, answer := range map[string]string{
		"not found": "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
		// S10: redirects are not followed.
		"redirect":         "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
		"another protocol": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
		"not HTTP":         "SSH-2.0-OpenSSH_9.9\r\n\r\n",
		"endless head":     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + strings.Repeat("x", 100<<10),
		"nothing":          "",
		// S1: what is signed is exactly 32 bytes of the server's.
		"short challenge": challenges(strings.Repeat("00", 31)),
		"long challenge":  challenges(strings.Repeat("00", 33)),
		"no hex":          challenges(strings.Repeat("zz", 32)),
		"empty challenge": challenges(""),
		"two challenges":  challenges(strings.Repeat("00", 32), strings.Repeat("00", 32)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := relayclient.Dial(t.Context(), relayclient.Config{
				URL: url(t, "http://relay.example"), Key: identity.GenerateSecretKey(),
				Dial: func(context.Context, string, string) (net.Conn, error) {
					ours, theirs := net.Pipe()
					go func() {
						defer theirs.Close()
						_, _ = http.ReadRequest(bufio.NewReader(theirs))
						_, _ = io.WriteString(theirs, answer)
					}()
					return ours, nil
				},
			})
			if !errors.Is(err, relayclient.ErrUpgrade) {
				t.Errorf("%v", err)
			}
		})
	}
}

// The client pings at once and then after 25 s of silence, and gives up when
// nothing comes for 4 s.
func TestDeadRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := dialFake(t, nil)
		h := newRecorder()
		done := make(chan error, 1)
		go func() { done <- c.Run(t.Context(), h) }()
		if text := wait(t, h.health); text != "welcome" {
			t.Errorf("%q", text)
		}
		begin := time.Now()
		ping := f.expect(relay.TypePing)
		time.Sleep(30 * time.Millisecond)
		_, _ = f.conn.Write(relay.AppendPong(nil, [8]byte(ping)))
		synctest.Wait()
		if c.RTT() != 30*time.Millisecond {
			t.Errorf("round trip of %v", c.RTT())
		}
		f.expect(relay.TypePing)
		if d := time.Since(begin); d != 25*time.Second+30*time.Millisecond {
			t.Errorf("second ping after %v", d)
		}
		begin = time.Now()
		if err := <-done; !errors.Is(err, relayclient.ErrDead) {
			t.Error(err)
		}
		if d := time.Since(begin); d != relay.ClientPongTimeout {
			t.Errorf("given up after %v", d)
		}
	})
}

// A relay that takes payload and gives no sign of life is dead within 5 s; one that
// gives any is not.
func TestDeadRelayUnderTraffic(t *testing.T) {
	for _, answers := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, f := dialFake(t, nil)
			done := make(chan error, 1)
			go func() { done <- c.Run(t.Context(), newRecorder()) }()
			f.expect(relay.TypePing)
			_, _ = f.conn.Write(relay.AppendKeepAlive(nil))
			time.Sleep(10 * time.Second)
			go func() { // the relay reads all
				for {
					typ, body, err := f.frames.Next()
					if err != nil {
						return
					}
					if typ == relay.TypePing && answers {
						_, _ = f.conn.Write(relay.AppendPong(nil, [8]byte(body)))
					}
				}
			}()
			begin := time.Now()
			for range 100 {
				c.Send(identity.NodeID{1}, bytes.Repeat([]byte{1}, 1200), 1200)
				time.Sleep(100 * time.Millisecond)
			}
			select {
			case err := <-done:
				if answers || !errors.Is(err, relayclient.ErrDead) {
					t.Errorf("ended after %v: %v", time.Since(begin), err)
				}
			default:
				if !answers {
					t.Error("still taken for alive")
				}
				_ = f.conn.Close()
				<-done
			}
		})
	}
}

// A KeepAlive is a sign of life like any other frame.
func TestKeepAliveCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := dialFake(t, nil)
		run(t, c, newRecorder())
		f.expect(relay.TypePing)
		for range 10 {
			_, _ = f.conn.Write(relay.AppendKeepAlive(nil))
			begin := time.Now()
			f.expect(relay.TypePing)
			if d := time.Since(begin).Round(time.Millisecond); d != relay.PingInterval {
				t.Fatalf("ping after %v", d)
			}
		}
		_ = f.conn.Close()
	})
}

// Pings are answered while a large write is blocked: the pong goes before all
// that waits, however much that is.
func TestPongOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := dialFake(t, nil)
		run(t, c, newRecorder())
		f.expect(relay.TypePing)
		for range 100 {
			c.Send(identity.NodeID{1}, bytes.Repeat([]byte{1}, 60_000), 1200)
		}
		synctest.Wait() // the writer hangs in the first block
		_, _ = f.conn.Write(relay.AppendPing(nil, [8]byte{42}))
		synctest.Wait()
		read := 0
		for {
			typ, body, err := f.frames.Next()
			if err != nil {
				t.Fatal(err)
			}
			if typ == relay.TypePong {
				break
			}
			read += len(body)
		}
		if read > 150_000 {
			t.Errorf("%d bytes went before the pong", read)
		}
		_ = f.conn.Close()
	})
}

// Frames that only clients send, and bad ones, end the connection.
func TestUnexpectedFrames(t *testing.T) {
	for name, test := range map[string]struct {
		frame []byte
		want  error
	}{
		"send packet": {relay.AppendPacket(nil, relay.TypeSendPacket, identity.NodeID{}, nil), relayclient.ErrUnexpected},
		"preferred":   {relay.AppendNotePreferred(nil, true), relayclient.ErrUnexpected},
		"type 9":      {[]byte{9, 0, 0, 0, 0}, relay.ErrUnknownType},
		"4 GiB":       {[]byte{5, 255, 255, 255, 255}, relay.ErrBodyLength},
	} {
		t.Run(name, func(t *testing.T) {
			c, f := dialFake(t, nil)
			go func() {
				_, _ = f.conn.Write(test.frame)
				_, _ = io.Copy(io.Discard, f.conn)
			}()
			if err := c.Run(t.Context(), newRecorder()); !errors.Is(err, test.want) {
				t.Error(err)
			}
		})
	}
}

// A dial ends after 10 s, wherever it hangs.
func TestDialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, err := relayclient.Dial(t.Context(), relayclient.Config{
			URL: url(t, "https://relay.example"), Key: identity.GenerateSecretKey(),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, theirs); _ = theirs.Close() }()
				return ours, nil
			},
		})
		if d := time.Since(begin); d != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", d, err)
		}
	})
}
