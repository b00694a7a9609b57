package relayactor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/relay/relayclient"
)

// S26: a relay that announces a restart after each login, and wants to be dialled at once,
// is dialled less and less often.
func TestRestartsInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(link)
		dials := 0
		for began := time.Now(); time.Since(began) < 10*time.Minute; dials++ {
			wait := l.delay(&relayclient.RestartError{})
			if wait < restartDelay/2 || wait > maxDelay {
				t.Fatalf("dial %d after %v", dials, wait)
			}
			time.Sleep(wait)
		}
		if most := 10 + int(10*time.Minute/maxDelay); dials > most {
			t.Errorf("%d dials in ten minutes, want at most %d", dials, most)
		}
		// One that restarts now and then is believed.
		time.Sleep(maxRestart + time.Second)
		if wait := l.delay(&relayclient.RestartError{After: 2 * time.Second}); wait != 2*time.Second {
			t.Errorf("later: %v", wait)
		}
	})
}
