package endpoint

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
)

// startAs runs an endpoint that is one node to disco and another to TLS.
func startAs(t *testing.T, key *identity.SecretKey) (n *node, real identity.NodeID) {
	t.Helper()
	e, err := New(loopback())
	if err != nil {
		t.Fatal(err)
	}
	real = e.NodeID()
	e.cfg.Socket.Key = key
	return run(t, e), real
}

// S3: a node that proves another identity than the one dialled is refused, and
// at once.
func TestWrongIdentity(t *testing.T) {
	a := start(t, loopback())
	b, dialled := startAs(t, identity.GenerateSecretKey())
	addr := b.addr()
	addr.ID = dialled
	begin := time.Now()
	_, err := a.Connect(withTimeout(t), addr, testALPN)
	if !errors.Is(err, ErrWrongNode) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begin); took > prompt {
		t.Errorf("took %v", took)
	}
	if want := "connect: another node answered: " + b.NodeID().Short() + " instead of " + dialled.Short(); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// S3: our own identity proves nothing to us, whoever shows it.
func TestOwnIdentityFromOutside(t *testing.T) {
	cfg := loopback()
	a := start(t, cfg)
	b, dialled := startAs(t, cfg.Socket.Key)
	addr := b.addr()
	addr.ID = dialled
	if _, err := a.Connect(withTimeout(t), addr, testALPN); !errors.Is(err, ErrCertificate) {
		t.Errorf("dialling: %v", err)
	}
}

// A dialler whose address is that of another node than it proves to be is not
// accepted: what is sent to it would go elsewhere.
func TestIdentityOfAnotherAddress(t *testing.T) {
	a, _ := startAs(t, identity.GenerateSecretKey())
	b := start(t, loopback())
	c, err := a.Connect(withTimeout(t), b.addr(), testALPN)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Accept(expired(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("accept: %v", err)
	}
	<-c.Context().Done()
	if got, _ := Cause(c.CloseCause()); got.Code != codeNotAuthorised {
		t.Errorf("%+v", got)
	}
}

func TestCause(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		kind Kind
		code uint64
		text string
	}{
		{"application", &quic.ApplicationError{Remote: true, ErrorCode: 5, ErrorMessage: "de\u202enied"}, Application, 5, "closed by the other side with code 5: de\ufffdnied"},
		{"own", &quic.ApplicationError{ErrorCode: 3}, Application, 3, "closed by this side with code 3"},
		{"reset", &quic.StatelessResetError{}, Reset, 0, "reset: the other side has restarted"},
		{"idle", &quic.IdleTimeoutError{}, Idle, 0, "idle timeout"},
		{"handshake", &quic.HandshakeTimeoutError{}, Handshake, 0, "the handshake did not end in time"},
		{"transport", &quic.TransportError{ErrorCode: quic.ConnectionRefused, Remote: true}, Transport, 2, "ended by the other side with QUIC error 0x2"},
		{"alert", &quic.TransportError{ErrorCode: 0x174, Remote: true}, Transport, 0x174, "handshake refused by the other side with alert 116"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := Cause(tc.err)
			if !ok || got.Kind != tc.kind || got.Code != tc.code || got.Error() != tc.text {
				t.Errorf("%+v, %q", got, got.Error())
			}
			if !errors.Is(got, tc.err) {
				t.Error("does not unwrap")
			}
			if again, ok := Cause(typed(tc.err)); !ok || again != got {
				t.Errorf("again: %+v", again)
			}
		})
	}
	if got, ok := Cause(context.Canceled); ok || got.Error() == "" {
		t.Errorf("%+v", got)
	}
	long, _ := Cause(&quic.ApplicationError{ErrorMessage: strings.Repeat("x", 5000)})
	if len(long.Error()) > 200 {
		t.Errorf("text of %d bytes", len(long.Error()))
	}
}

// What real nodes answer (iroh-net 0.28.1 and 0.35.0), in words.
func TestDialErrors(t *testing.T) {
	a := start(t, loopback())
	for _, tc := range []struct {
		name string
		err  error
		want error
	}{
		{"raw public keys", &quic.TransportError{Remote: true, ErrorCode: 0x128}, ErrRawPublicKeys},
		{"ALPN", &quic.TransportError{Remote: true, ErrorCode: 0x178}, ErrALPN},
		{"closed", quic.ErrTransportClosed, ErrClosed},
		{"silence", &quic.IdleTimeoutError{}, ErrNoAnswer},
	} {
		if got := a.dialError(t.Context(), identity.NodeID{}, testALPN, tc.err); !errors.Is(got, tc.want) {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// A node that stops answering is looked for once at a time, and not after the
// end.
func TestLookups(t *testing.T) {
	var l lookups
	l.run(identity.NodeID{1}, func(context.Context) { t.Error("before the beginning") })
	ctx, cancel := context.WithCancel(context.Background())
	l.begin(ctx)
	ran := make(chan struct{}, 2*maxLookups)
	for i := range 2 * maxLookups {
		for range 3 {
			l.run(identity.NodeID{byte(i)}, func(ctx context.Context) {
				ran <- struct{}{}
				<-ctx.Done()
			})
		}
	}
	for range maxLookups {
		<-ran
	}
	cancel()
	l.end()
	if len(ran) != 0 {
		t.Errorf("%d too many", len(ran))
	}
	l.run(identity.NodeID{1}, func(context.Context) { t.Error("after the end") })
}
