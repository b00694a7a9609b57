package routing_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/routing"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func TestChoosePool(t *testing.T) {
	for _, tc := range []struct {
		name, setting string
		taken, null   []netip.Prefix
		want          string // empty: the zero Prefix
		err           error
	}{
		{name: "first default", want: "198.18.0.0/16"},
		{name: "default avoids a wider network", taken: prefixes("198.18.0.0/15"), want: "10.214.0.0/16"},
		{name: "default avoids a single address", taken: prefixes("198.18.7.9/32", "10.214.9.0/24"), want: "172.29.0.0/16"},
		{name: "last default", taken: prefixes("198.18.0.0/15", "10.0.0.0/8", "172.16.0.0/12"), want: "100.100.0.0/16"},
		{name: "all defaults taken", taken: prefixes("100.64.0.0/10", "198.18.0.0/15", "10.0.0.0/8", "172.16.0.0/12"), err: routing.ErrPoolTaken},
		{name: "halves of a default route do not count", taken: prefixes("0.0.0.0/1", "128.0.0.0/1", "::/0"), want: "198.18.0.0/16"},
		{name: "null routes over all defaults", null: prefixes("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10", "198.18.0.0/15"), want: "198.18.0.0/16"},
		{name: "a null route inside a pool is somebody's", null: prefixes("198.18.4.0/24"), want: "10.214.0.0/16"},
		{name: "a null route that is the pool is in the way", null: prefixes("198.18.0.0/16"), want: "10.214.0.0/16"},
		{name: "set under a null route", setting: "10.9.0.0/20", null: prefixes("10.0.0.0/8"), want: "10.9.0.0/20"},
		{name: "none", setting: "none"},
		{name: "set", setting: "10.9.0.0/20", want: "10.9.0.0/20"},
		{name: "set with host bits", setting: "10.9.8.7/16", want: "10.9.0.0/16"},
		{name: "set but taken", setting: "10.9.0.0/20", taken: prefixes("10.9.1.0/24"), err: routing.ErrPoolTaken},
		{name: "set inside a network", setting: "10.9.0.0/20", taken: prefixes("10.0.0.0/8"), err: routing.ErrPoolTaken},
		{name: "word", setting: "big", err: routing.ErrBadPool},
		{name: "ipv6", setting: "fd00::/64", err: routing.ErrBadPool},
		{name: "too small", setting: "10.9.0.0/31", err: routing.ErrBadPool},
		{name: "too wide", setting: "10.0.0.0/7", err: routing.ErrBadPool},
		{name: "loopback", setting: "127.5.0.0/16", err: routing.ErrBadPool},
		{name: "link-local", setting: "169.254.0.0/16", err: routing.ErrBadPool},
		{name: "multicast", setting: "239.0.0.0/8", err: routing.ErrBadPool},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := routing.ChoosePool(tc.setting, routing.Networks{Used: tc.taken, Null: tc.null})
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			var want netip.Prefix
			if tc.want != "" {
				want = netip.MustParsePrefix(tc.want)
			}
			if got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
