package rules

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
		{"udp/60000-61000", 17, 59999, false},
		{"udp/60000-61000", 17, 60000, true},
		{"udp/60000-61000", 17, 61000, true},
		{"udp/60000-61000", 17, 61001, false},
		{"udp/60000-61000", 6, 60500, false},
		{"tcp/1-65535", 6, 65535, true},
		{"tcp/10-20 tcp/30-40", 6, 25, false},
		{"tcp/10-20 tcp/30-40", 6, 40, true},
		{"ssh", 6, 22, true},
		{"https mosh", 17, 60001, true},
		{"DNS", 17, 53, true},
		{"ping", 58, 0, true},
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
	for _, bad := range []string{"tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/-1", "tcp/x", "sctp/1", "allow", "icmp/8", "tcp/22/23", "tcp/20-10", "tcp/1-", "tcp/-5", "tcp/0-5", "tcp/1-65536", "tcp/1-2-3", "gopher", "tcp/ssh"} {
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
		{base.With(parse(t, "tcp/20-79")).String(), "tcp/20-79 tcp/80 udp/53 icmp"},
		{base.With(parse(t, "tcp/20-80 tcp/81")).String(), "tcp/20-80 tcp/81 udp/53 icmp"},
		{parse(t, "tcp/8000-8100").Without(parse(t, "tcp/8050")).String(), "tcp/8000-8049 tcp/8051-8100"},
		{parse(t, "tcp/8000-8100").Without(parse(t, "tcp/7000-8000 tcp/8100")).String(), "tcp/8001-8099"},
		{parse(t, "tcp/8000-8100 tcp/1-65535").String(), "tcp/1-65535"},
		{parse(t, "tcp/1-65535").Without(parse(t, "tcp/1-65535")).String(), "nothing"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}

func TestCovers(t *testing.T) {
	base := parse(t, "tcp/22 tcp/8000-8100 udp/53")
	for _, tc := range []struct {
		asked, which string
		want         bool
	}{
		{"tcp/22", "tcp/22", true},
		{"tcp/8050", "tcp/8000-8100", true},
		{"tcp/8050-8100", "tcp/8000-8100", true},
		{"tcp/8050-8101", "tcp/8000-8100", false},
		{"dns", "udp/53", false},
		{"icmp", "nothing", false},
		{"all", "nothing", false},
	} {
		asked := parse(t, tc.asked)
		if got := base.Covers(asked); got != tc.want {
			t.Errorf("%s covers %s: %v", base, tc.asked, got)
		}
		if got := base.Which(asked).String(); got != tc.which {
			t.Errorf("%s by %s, want %s", tc.asked, got, tc.which)
		}
	}
	if all := parse(t, "all"); !all.Covers(all) || !all.Covers(base) || all.Which(base).String() != "all" {
		t.Error("all does not cover all")
	}
}

// Sets of ports hold what was put in and not taken out, for random ones.
func TestSetsOfPorts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var r Rules
		var want [130]bool
		for range 12 {
			first := 1 + random.IntN(100)
			s := span{uint16(first), uint16(first + random.IntN(20))}
			put := random.IntN(3) > 0
			if one := (Rules{tcp: ports{s}}); put {
				r = r.With(one)
			} else {
				r = r.Without(one)
			}
			for port := s.first; port <= s.last; port++ {
				want[port] = put
			}
		}
		for port, is := range want {
			if r.Allows(protoTCP, uint16(port)) != is {
				t.Fatalf("%s and %d: %v", r, port, !is)
			}
		}
		for i, s := range r.tcp[:max(len(r.tcp)-1, 0)] {
			if s.last >= r.tcp[i+1].first {
				t.Fatalf("%s is out of order", r)
			}
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
