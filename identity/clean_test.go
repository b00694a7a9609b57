package identity

import (
	"testing"
	"unicode"
	"unicode/utf8"
)

// S22: text of another machine can neither move the cursor, nor hide, nor turn
// around what is shown, nor fill the screen.
func TestClean(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		limit    int
		want     string
	}{
		{"plain", "nas of Zoë, 日本", 80, "nas of Zoë, 日本"},
		{"terminal escape", "\x1b]0;pwned\x07", 80, "�]0;pwned�"},
		{"line ends", "a\r\nb\tc", 80, "a��b�c"},
		{"C1 control", "a\u009bb", 80, "a�b"},
		{"delete", "a\x7f", 80, "a�"},
		{"right-to-left override", "txt\u202eexe", 80, "txt�exe"},
		{"isolates", "\u2066a\u2069", 80, "�a�"},
		{"zero width", "a\u200bb\u200d\ufeff", 80, "a�b��"},
		{"separators", "a\u2028b\u2029c", 80, "a�b�c"},
		{"other spaces", "a\u00a0b\u3000c", 80, "a�b�c"},
		{"private use, unassigned", "\ue000\U000e0041", 80, "��"},
		{"bad UTF-8", "a\xffb\xc3", 80, "a�b�"},
		{"surrogate", "\xed\xa0\x80", 80, "���"},
		{"cut in runes", "äöü", 2, "äö"},
		{"cut at zero", "abc", 0, ""},
		{"negative", "abc", -1, ""},
		{"empty", "", 80, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Clean(tc.in, tc.limit); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2J\u202e", 5)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		got := Clean(s, limit)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > max(limit, 0) {
			t.Errorf("%q of %d runes", got, utf8.RuneCountInString(got))
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q holds %U", got, r)
			}
		}
		if again := Clean(got, limit); again != got {
			t.Errorf("%q becomes %q", got, again)
		}
	})
}
