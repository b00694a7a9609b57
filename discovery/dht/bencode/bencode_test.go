package bencode

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	for text, want := range map[string]any{
		"i0e": int64(0), "i-42e": int64(-42), "0:": "", "4:spam": "spam", "le": []any{}, "de": map[string]any{},
		"l4:spami7ee":                []any{"spam", int64(7)},
		"d3:cow3:moo4:spaml1:a1:bee": map[string]any{"cow": "moo", "spam": []any{"a", "b"}},
		"d1:b1:x1:ai1ee":             map[string]any{"a": int64(1), "b": "x"},
		"i9223372036854775807e":      int64(1<<63 - 1),
		strings.Repeat("l", 7) + "0:" + strings.Repeat("e", 7): []any{[]any{[]any{[]any{[]any{[]any{[]any{""}}}}}}},
	} {
		got, err := Decode([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "i", "ie", "i-0e", "i01e", "i1", "i9223372036854775808e", "5:spam", "-1:", "01:a", "l", "l1:a", "d", "d1:a", "d1:ae", "di1ei2ee", "x", "i1ei2e",
		strings.Repeat("l", 9) + strings.Repeat("e", 9), "99999999999:a",
	} {
		if got, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{"i1e", "d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", "l1:a1:be"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if err != nil {
			return
		}
		canonical := Append(nil, v)
		again, err := Decode(canonical)
		if err != nil || !reflect.DeepEqual(v, again) || !bytes.Equal(Append(nil, again), canonical) {
			t.Errorf("%q: %v, then %v, %v", b, v, again, err)
		}
		if len(canonical) > len(b) {
			t.Errorf("%q became %q", b, canonical)
		}
	})
}
