package main

import (
	"slices"
	"testing"

	"github.com/nodetun/nodetun/internal/localapi"
)

func TestRepairText(t *testing.T) {
	sent := "to bob went 7 packets and 2 parity packets, now 5 with 64"
	for _, test := range []struct {
		name   string
		repair localapi.Repair
		want   string
	}{
		{
			"random loss",
			localapi.Repair{Received: 1000, Repaired: 9, ParityReceived: 80},
			"of what comes from bob, 1.2 % is lost on the way: 1000 packets came, 9 more were repaired by 80 parity packets",
		},
		{
			"a full queue, too",
			localapi.Repair{Received: 1000, Repaired: 9, ParityReceived: 80, Dropped: 3},
			"of what comes from bob, 1.2 % is lost on the way: 1000 packets came, 9 more were repaired by 80 parity packets; 3 were dropped here, as a queue on the way was full",
		},
		{
			"by the rate",
			localapi.Repair{Received: 1000, Repaired: 9, TooFast: true},
			"packets from bob are lost because of the rate at which they come; that is not repaired (9 packets were, earlier)",
		},
	} {
		test.repair.Sent, test.repair.ParitySent, test.repair.Asked = 7, 2, 5
		if got := repairText("bob", 0.012, &test.repair); !slices.Equal(got, []string{test.want, sent}) {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func TestLossText(t *testing.T) {
	loss := func(part float64, r *localapi.Repair) localapi.Peer {
		return localapi.Peer{State: "connected", Loss: &part, Repair: r}
	}
	idle := loss(0.02, &localapi.Repair{Repaired: 1})
	idle.State = "idle"
	for _, test := range []struct {
		peer localapi.Peer
		want string
	}{
		{localapi.Peer{State: "connected"}, ""},
		{idle, ""},
		{loss(0.0004, &localapi.Repair{Repaired: 1}), ""},
		{loss(0.02, &localapi.Repair{}), ""},
		{loss(0.02, &localapi.Repair{Repaired: 1}), "2.0 % of what comes is lost on the way, and repaired by parity"},
		{loss(0, &localapi.Repair{TooFast: true}), "packets are lost because of the rate at which they come"},
	} {
		if got := lossText(test.peer); got != test.want {
			t.Errorf("%+v: %q, want %q", test.peer, got, test.want)
		}
	}
}
