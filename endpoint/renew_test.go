package endpoint

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/internal/natlab"
)

// An outage of ten minutes, while one side has more to send than fits into the
// window. The other notices that it is over. The first answers tell of a round trip of
// half a minute; that is soon forgotten, whichever side dialled. When the sender waited
// for the receiver's window, which was lost, the receiver says it again at once.
func TestOutageIsForgotten(t *testing.T) {
	for _, test := range []struct {
		name    string
		dialled bool // the side that sends
		waits   bool // for the window, which is closed when the outage begins
	}{
		{"dialler sends", true, false},
		{"acceptor sends", false, false},
		{"dialler waits to send", true, true},
		{"acceptor waits to send", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNatted(t)
				from, to, ctx := n.dialled, n.accepted, t.Context()
				if !test.dialled {
					from, to = to, from
				}
				out, err := from.OpenUniStream(ctx)
				if err != nil {
					t.Fatal(err)
				}
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for chunk := make([]byte, 16<<10); ; {
						if _, err := out.Write(chunk); err != nil {
							return
						}
					}
				}()
				in, err := to.AcceptUniStream(ctx)
				if err != nil {
					t.Fatal(err)
				}
				read := func(size int64) time.Duration {
					begin := time.Now()
					_ = in.SetReadDeadline(begin.Add(time.Hour))
					if _, err := io.CopyN(struct{ io.Writer }{io.Discard}, in, size); err != nil {
						t.Fatal(err)
					}
					return time.Since(begin)
				}
				read(1 << 20)
				before := read(4 << 20)
				for range 3 { // every path is the last one's successor
					if test.waits {
						time.Sleep(time.Second)
					}
					n.router.Block(true)
					_ = in.SetReadDeadline(time.Now().Add(10 * time.Minute))
					if _, err := io.Copy(io.Discard, in); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					n.router.Block(false)
					if test.dialled { // whoever receives notices
						n.outside.Move(n.lab.Internet)
					} else {
						n.inside.Move(n.router.Inside)
					}
					first := read(1)
					time.Sleep(5 * natlab.Hop)
					rtt := from.RTT()
					rest := read(4 << 20)
					t.Logf("4 MiB in %v before, first byte after %v, then a round trip of %v and 4 MiB in %v", before, first, rtt, rest)
					if rtt > 40*natlab.Hop || first > time.Second {
						t.Errorf("slow after the outage")
					}
				}
				in.CancelRead(0)
				<-sent
			})
		})
	}
}

// Congestion is told by ECN on another path as on the first, if some packets were lost before:
// quic-go sends the packets of a path's probe without it, and would give it up.
func TestECNOutlivesRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNatted(t)
		const ect0 = 2
		transfer := func(from, to *Connection) {
			out, err := from.OpenUniStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, _ = out.Write(make([]byte, 1<<20))
				_ = out.Close()
			}()
			in, err := to.AcceptUniStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if size, err := io.Copy(io.Discard, in); err != nil || size != 1<<20 {
				t.Fatal(size, err)
			}
		}
		both := func() { transfer(n.dialled, n.accepted); transfer(n.accepted, n.dialled) }
		count := 0
		n.lab.Lose(func() bool { count++; return count%100 == 0 })
		both()
		n.lab.Lose(nil)
		for i := range 3 { // there and back
			n.dialler.Socket().MeasureAnew(n.acceptor.NodeID())
			n.acceptor.Socket().MeasureAnew(n.dialler.NodeID())
			time.Sleep(time.Second)
			both()
			time.Sleep(time.Second)
			before := n.lab.Sent(ect0)
			both()
			if with := n.lab.Sent(ect0) - before; with < 2<<20/1500 {
				t.Errorf("after %d renewals: only %d packets have ECT(0)", i+1, with)
			}
		}
	})
}
