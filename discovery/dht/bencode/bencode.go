package bencode

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// ErrSyntax says that bytes are no encoding.
var ErrSyntax = errors.New("not bencoded")

// maxDepth bounds lists and dictionaries within each other.
const maxDepth = 8

// Decode reads one value: int64, string, []any or map[string]any. Dictionaries need not be
// in order; the last of equal keys counts.
func Decode(b []byte) (any, error) {
	v, rest, err := decodeValue(b, maxDepth)
	if err == nil && len(rest) > 0 {
		err = ErrSyntax
	}
	return v, err
}

func decodeValue(b []byte, depth int) (v any, rest []byte, err error) {
	if len(b) == 0 || depth == 0 {
		return nil, nil, ErrSyntax
	}
	switch c := b[0]; {
	case c == 'i':
		return decodeInt(b[1:], 'e')
	case c == 'l':
		list := []any{}
		for b = b[1:]; len(b) > 0 && b[0] != 'e'; list = append(list, v) {
			if v, b, err = decodeValue(b, depth-1); err != nil {
				return nil, nil, err
			}
		}
		if len(b) == 0 {
			return nil, nil, ErrSyntax
		}
		return list, b[1:], nil
	case c == 'd':
		dict := map[string]any{}
		for b = b[1:]; len(b) > 0 && b[0] != 'e'; {
			var key string
			if key, b, err = decodeString(b); err != nil {
				return nil, nil, err
			}
			if v, b, err = decodeValue(b, depth-1); err != nil {
				return nil, nil, err
			}
			dict[key] = v
		}
		if len(b) == 0 {
			return nil, nil, ErrSyntax
		}
		return dict, b[1:], nil
	default:
		return decodeString(b)
	}
}

// decodeInt reads a number up to the byte that ends it.
func decodeInt(b []byte, end byte) (n int64, rest []byte, err error) {
	at := slices.Index(b, end)
	if at < 0 {
		return 0, nil, ErrSyntax
	}
	text := string(b[:at])
	n, err = strconv.ParseInt(text, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != text {
		return 0, nil, ErrSyntax
	}
	return n, b[at+1:], nil
}

func decodeString(b []byte) (s string, rest []byte, err error) {
	n, b, err := decodeInt(b, ':')
	if err != nil || n < 0 || n > int64(len(b)) {
		return "", nil, ErrSyntax
	}
	return string(b[:n]), b[n:], nil
}

// Append appends a value of the kinds that Decode returns, and panics for others.
func Append(b []byte, v any) []byte {
	switch v := v.(type) {
	case int64:
		return fmt.Appendf(b, "i%de", v)
	case string:
		return append(fmt.Appendf(b, "%d:", len(v)), v...)
	case []any:
		b = append(b, 'l')
		for _, one := range v {
			b = Append(b, one)
		}
	case map[string]any:
		b = append(b, 'd')
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = Append(Append(b, key), v[key])
		}
	default:
		panic(fmt.Sprintf("bencode: no encoding of %T", v))
	}
	return append(b, 'e')
}
