package plaintext

import (
	"bytes"
	"errors"
	"testing"
)

func TestClean(t *testing.T) {
	for _, tc := range []struct {
		name, in, want string
		err            error
	}{
		{"as it is", "a\nb\n", "a\nb\n", nil},
		{"empty", "", "", nil},
		{"byte order mark", "\xef\xbb\xbfa\n", "a\n", nil},
		{"mark alone", "\xef\xbb\xbf", "", nil},
		{"CRLF", "a\r\n\r\nb", "a\n\nb", nil},
		{"CR alone", "a\r\rb\r", "a\n\nb\n", nil},
		{"UTF-16 little-endian", "\xff\xfea\x00", "", ErrUTF16},
		{"UTF-16 big-endian", "\xfe\xff\x00a", "", ErrUTF16},
		{"UTF-16 without a mark", "a\x00b\x00", "", ErrUTF16},
		{"NUL bytes", "\x00\x00\x00\x00", "", ErrNUL},
		{"NUL bytes at the end", "text\x00\x00", "", ErrNUL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := Clean([]byte(tc.in)); string(got) != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add([]byte("\xef\xbb\xbfa\r\nb\r"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if once, err := Clean(b); err == nil && bytes.ContainsAny(once, "\r\x00") {
			t.Errorf("%q became %q", b, once)
		}
	})
}

func TestTrim(t *testing.T) {
	for _, around := range []string{"", " ", "\n", "\t", "\u00a0", "\u200b", "\u2060", "\ufeff", "\u3000", " \u200b\u00a0"} {
		if got := Trim(around + "a b" + around); got != "a b" {
			t.Errorf("%q around it: %q", around, got)
		}
	}
}
