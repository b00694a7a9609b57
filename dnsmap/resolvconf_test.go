package dnsmap_test

import (
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/dnsmap"
)

func TestResolvConfLines(t *testing.T) {
	const ours = "# nodetun begin (the next line is removed when nodetun stops)\nnameserver 127.0.0.153\n# nodetun end\n"
	block := func(line string) string {
		return "# nodetun begin (the next line is removed when nodetun stops)\n" + line + "\n# nodetun end\n"
	}
	for _, tc := range []struct {
		name, base, want string
		alone            bool
	}{
		{name: "usual", base: "nameserver 192.0.2.1\noptions edns0\n", want: ours + "nameserver 192.0.2.1\noptions edns0\n"},
		{
			name: "rotate", base: "options timeout:1 rotate attempts:1\nnameserver 192.0.2.1\n",
			want: ours + block("options timeout:1 attempts:1") + "# nodetun hides: options timeout:1 rotate attempts:1\nnameserver 192.0.2.1\n",
		},
		{name: "rotate and nothing else", base: "nameserver 192.0.2.1\noptions rotate", want: ours + "nameserver 192.0.2.1\n# nodetun hides: options rotate"},
		{name: "rotate with line ends of Windows", base: "options rotate\r\n", want: ours + "# nodetun hides: options rotate\r\n"},
		{
			name: "alone", alone: true, base: "nameserver 192.0.2.1\n# nameserver 192.0.2.2\nsearch x\nnameserver 192.0.2.3",
			want: ours + "# nodetun hides: nameserver 192.0.2.1\n# nameserver 192.0.2.2\nsearch x\n# nodetun hides: nameserver 192.0.2.3",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := dnsmap.AddBlocks([]byte(tc.base), netip.MustParseAddr("127.0.0.153"), "", tc.alone)
			if string(got) != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
			if back := dnsmap.StripBlocks(got); string(back) != tc.base {
				t.Errorf("taken out: %q, want %q", back, tc.base)
			}
		})
	}
}
