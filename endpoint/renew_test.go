package endpoint

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/natlab"
	"github.com/nodetun/nodetun/magicsock"
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
				lab := natlab.New(t)
				router := lab.Internet.NAT(natlab.Config{Mapping: natlab.EndpointIndependent, Filtering: natlab.EndpointIndependent, Timeout: time.Hour})
				onHost := func(h *natlab.Host) *node {
					return start(t, Config{
						Socket: magicsock.Config{
							Key: identity.GenerateSecretKey(), Underlay: h.Underlay(), Paired: func(identity.NodeID) bool { return true },
						},
						ALPNs: []string{testALPN}, SessionALPNs: []string{testALPN},
					})
				}
				outside, inside := lab.Internet.Host(), router.Inside.Host()
				a, b := onHost(inside), onHost(outside)
				v4, _ := b.LocalAddrs()
				ctx := t.Context()
				accepted := make(chan *Connection, 1)
				go func() {
					c, err := b.Accept(ctx)
					if err != nil {
						t.Error(err)
					}
					accepted <- c
				}()
				from, err := a.Connect(ctx, identity.NodeAddr{ID: b.NodeID(), Direct: []netip.AddrPort{netip.AddrPortFrom(outside.Addr(), v4.Port())}}, testALPN)
				if err != nil {
					t.Fatal(err)
				}
				to := <-accepted
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
				read := func(n int64) time.Duration {
					begin := time.Now()
					_ = in.SetReadDeadline(begin.Add(time.Hour))
					if _, err := io.CopyN(struct{ io.Writer }{io.Discard}, in, n); err != nil {
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
					router.Block(true)
					_ = in.SetReadDeadline(time.Now().Add(10 * time.Minute))
					if _, err := io.Copy(io.Discard, in); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					router.Block(false)
					if test.dialled { // whoever receives notices
						outside.Move(lab.Internet)
					} else {
						inside.Move(router.Inside)
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
