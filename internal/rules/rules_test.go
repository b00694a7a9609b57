package rules

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func parse(t testing.TB, list ...string) Rules {
	t.Helper()
	r, err := Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAllows(t *testing.T) {
	for _, tc := range []struct {
		rules string
		proto uint8
		port  uint16
		want  bool
	}{
		{"", 6, 22, false},
		{"tcp/22", 6, 22, true},
		{"tcp/22", 6, 23, false},
		{"tcp/22", 17, 22, false},
		{"udp/53", 17, 53, true},
		{"icmp", 1, 0, true},
		{"icmp", 58, 0, true},
		{"icmp", 6, 0, false},
		{"tcp/22 icmp", 132, 22, false},
		{"all", 132, 0, true},
		{"TCP/443,udp/443", 17, 443, true},
	} {
		if got := parse(t, tc.rules).Allows(tc.proto, tc.port); got != tc.want {
			t.Errorf("%q allows %d/%d: %v", tc.rules, tc.proto, tc.port, got)
		}
	}
}

// S15: the default opens ssh and ping, and nothing else.
func TestDefault(t *testing.T) {
	r := Default()
	if want := []string{"tcp/22", "icmp"}; !slices.Equal(r.Strings(), want) {
		t.Errorf("default is %v, want %v", r.Strings(), want)
	}
	for port := range 65536 {
		if got := r.Allows(6, uint16(port)); got != (port == 22) {
			t.Errorf("tcp/%d: %v", port, got)
		}
		if r.Allows(17, uint16(port)) {
			t.Errorf("udp/%d passes", port)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, bad := range []string{"tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/-1", "tcp/x", "sctp/1", "allow", "icmp/8", "tcp/22/23"} {
		if _, err := Parse([]string{bad}); !errors.Is(err, ErrBadRule) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWithAndWithout(t *testing.T) {
	base := parse(t, "tcp/22 tcp/80 udp/53 icmp")
	for _, tc := range []struct{ got, want string }{
		{base.With(parse(t, "tcp/443 tcp/22")).String(), "tcp/22 tcp/80 tcp/443 udp/53 icmp"},
		{base.With(parse(t, "all")).String(), "all"},
		{base.Without(parse(t, "tcp/80 icmp")).String(), "tcp/22 udp/53"},
		{base.Without(parse(t, "all")).String(), "nothing"},
		{parse(t, "all").Without(parse(t, "tcp/22")).String(), "all"},
		{base.String(), "tcp/22 tcp/80 udp/53 icmp"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("tcp/22 icmp")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse([]string{s})
		if err != nil {
			return
		}
		again, err := Parse(r.Strings())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Errorf("%v became %v, %v", r, again, err)
		}
	})
}

func TestAllowsDoesNotAllocate(t *testing.T) {
	r := parse(t, "tcp/22 tcp/80 icmp")
	if n := testing.AllocsPerRun(100, func() { r.Allows(6, 80) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
