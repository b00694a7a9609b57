package daemon

import (
	"context"
	"errors"
	"testing"

	"github.com/nodetun/nodetun/internal/config"
)

// S25: metrics are for this machine, unless they are meant to be public.
func TestMetricsAddress(t *testing.T) {
	for _, test := range []struct {
		addr   string
		public bool
		ok     bool
	}{
		{"", false, true},
		{"127.0.0.1:0", false, true},
		{"[::1]:0", false, true},
		{"localhost:0", false, true},
		{":0", false, false},
		{"0.0.0.0:0", false, false},
		{"[::]:0", false, false},
		{"192.0.2.1:0", false, false},
		{"relay.example:0", false, false},
		{"0.0.0.0:0", true, true},
	} {
		d := &Daemon{cfg: Config{Settings: config.Settings{MetricsAddr: test.addr, MetricsPublic: test.public}}}
		err := d.openMetrics(context.Background())
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrMetricsPublic) {
			t.Errorf("%q, public %v: %v", test.addr, test.public, err)
		}
		if err := d.undo.run(); err != nil {
			t.Error(err)
		}
	}
}
