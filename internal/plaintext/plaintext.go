package plaintext

import (
	"bytes"
	"errors"
	"strings"
	"unicode"
)

// Errors of Clean. Each says what to do.
var (
	// ErrUTF16 means text in an encoding that nothing here reads.
	ErrUTF16 = errors.New("is UTF-16 text (save it as UTF-8)")
	// ErrNUL means that the file was damaged: a file system that lost its power may
	// leave one with the right length and no content.
	ErrNUL = errors.New("holds NUL bytes: it was damaged, perhaps by a power cut (put a backup of it back)")
)

// Clean returns the text of a file with lines that end by LF and without a byte order
// mark. The number of a line stays. What has NUL bytes is no text: ErrUTF16 or ErrNUL.
func Clean(b []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(b, []byte("\xff\xfe")), bytes.HasPrefix(b, []byte("\xfe\xff")):
		return nil, ErrUTF16
	case len(b) >= 2 && (b[0] == 0) != (b[1] == 0):
		return nil, ErrUTF16 // without a mark: every other byte of ASCII is NUL
	case bytes.IndexByte(b, 0) >= 0:
		return nil, ErrNUL
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(b, []byte("\r"), []byte("\n")), nil
}

// Trim takes blanks of every width off both ends, also those of width zero.
func Trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) })
}
