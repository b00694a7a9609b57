package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/nodetun/nodetun/internal/plaintext"
)

// ErrBadFile is wrapped by every error about the content of a file.
var ErrBadFile = errors.New("broken file")

// FileError says what is wrong in a file, and where. Line is 0 when it is not
// known, Key empty when the file is no TOML or JSON at all.
type FileError struct {
	Path string
	Line int
	Key  string
	Err  error
}

// Error returns "path:line: key: what".
func (e *FileError) Error() string {
	var b strings.Builder
	b.WriteString(e.Path)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns ErrBadFile and the cause.
func (e *FileError) Unwrap() []error { return []error{ErrBadFile, e.Err} }

// document is a parsed TOML file that knows the lines of its keys.
type document struct {
	path  string
	root  map[string]any
	lines map[string]int // of "key", "table.key" and, in arrays of tables, "table.0.key"
}

// parse reads TOML. Errors are *FileError.
func parse(path string, data []byte) (*document, error) {
	data, err := plaintext.Clean(data)
	if err != nil {
		return nil, &FileError{Path: path, Err: err}
	}
	d := &document{path: path, root: map[string]any{}, lines: map[string]int{}}
	if err := toml.Unmarshal(data, &d.root); err != nil {
		return nil, syntaxError(path, data, err)
	}
	d.findLines(data)
	return d, nil
}

// typographic are quotation marks that word processors put in place of " and '.
const typographic = "“”„‟‘’‚‛«»"

func syntaxError(path string, data []byte, err error) error {
	e := &FileError{Path: path, Err: errors.New(strings.TrimPrefix(err.Error(), "toml: "))}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		e.Line, _ = decode.Position()
		e.Key = strings.Join(decode.Key(), ".")
	}
	if lines := bytes.Split(data, []byte("\n")); e.Line > 0 && e.Line <= len(lines) && bytes.ContainsAny(lines[e.Line-1], typographic) {
		e.Err = errors.New("has typographic quotation marks (write \")")
	}
	return e
}

// findLines walks over a file that is known to be valid.
func (d *document) findLines(data []byte) {
	var p unstable.Parser
	p.Reset(data)
	prefix, seen := "", map[string]int{}
	for p.NextExpression() {
		e := p.Expression()
		key, line := keyOf(&p, e)
		switch e.Kind {
		case unstable.Table:
			prefix = key + "."
		case unstable.ArrayTable:
			prefix = key + "." + strconv.Itoa(seen[key]) + "."
			seen[key]++
		case unstable.KeyValue:
			d.note(prefix+key, line)
			continue
		default:
			continue
		}
		d.note(strings.TrimSuffix(prefix, "."), line)
	}
}

// note remembers the line of a place, and of the tables that begin with it.
func (d *document) note(at string, line int) {
	for at != "" {
		if _, known := d.lines[at]; !known {
			d.lines[at] = line
		}
		at = at[:max(0, strings.LastIndexByte(at, '.'))]
	}
}

// keyOf returns the dotted key of an expression and its line.
func keyOf(p *unstable.Parser, e *unstable.Node) (key string, line int) {
	if e.Kind != unstable.Table && e.Kind != unstable.ArrayTable && e.Kind != unstable.KeyValue {
		return "", 0
	}
	var parts []string
	for it := e.Key(); it.Next(); {
		node := it.Node()
		if len(parts) == 0 {
			line = p.Shape(node.Raw).Start.Line
		}
		parts = append(parts, string(node.Data))
	}
	return strings.Join(parts, "."), line
}

// errorAt makes an error about a key. at is its place in lines, which may be
// within a table; the key shown is the last part of it.
func (d *document) errorAt(at string, err error) error {
	line, known := d.lines[at]
	for place := at; !known && strings.Contains(place, "."); {
		place = place[:strings.LastIndexByte(place, '.')]
		line, known = d.lines[place]
	}
	return &FileError{Path: d.path, Line: line, Key: at[strings.LastIndexByte(at, '.')+1:], Err: err}
}

// errUnknownKey names the nearest known key.
func errUnknownKey(key string, known []string) error {
	if best := nearest(key, known); best != "" {
		return fmt.Errorf("unknown key (did you mean %s?)", best)
	}
	return fmt.Errorf("unknown key (known are %s)", strings.Join(known, ", "))
}

// nearest returns the known word with the fewest edits from word, the first of
// several; empty when even that is another word altogether.
func nearest(word string, known []string) string {
	best, least := "", len(word)/2+2
	for _, k := range known {
		n := distance(strings.ToLower(word), k)
		if strings.HasPrefix(k, word) || strings.HasPrefix(word, k) {
			n = min(n, 2)
		}
		if n < least {
			best, least = k, n
		}
	}
	return best
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// asText, asBool and asList take a value as TOML has it, or as a flag has it.

func asText(value any) (string, error) {
	if s, ok := value.(string); ok {
		return s, nil
	}
	return "", fmt.Errorf("must be text in quotes, not %v", value)
}

func asBool(value any) (bool, error) {
	if b, ok := value.(bool); ok {
		return b, nil
	}
	return false, fmt.Errorf("must be true or false, not %v", value)
}

func asList(value any) ([]string, error) {
	switch v := value.(type) {
	case []string:
		return slices.Clone(v), nil
	case []any:
		list := make([]string, 0, len(v))
		for _, element := range v {
			s, ok := element.(string)
			if !ok {
				return nil, fmt.Errorf("must be a list of texts, not %v", element)
			}
			list = append(list, s)
		}
		return list, nil
	default:
		return nil, fmt.Errorf("must be a list such as [\"one\", \"two\"], not %v", value)
	}
}
