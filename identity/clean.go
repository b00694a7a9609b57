package identity

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes text that came from another machine fit to be shown (S22): at
// most limit runes, and each that is not printable (control, format, bidi,
// line and paragraph separators, bad UTF-8) becomes U+FFFD.
func Clean(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if limit <= 0 {
			break
		}
		limit--
		if !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		b.WriteRune(r)
	}
	return b.String()
}
