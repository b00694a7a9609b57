package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// FileError says what is wrong with a file, and where.
type FileError struct {
	Path string
	// Line counts from 1; 0 means that it is not known.
	Line int
	// Key may be empty.
	Key string
	// Err says what is wrong.
	Err error
}

// Error returns "path:line: key: what".
func (e *FileError) Error() string {
	text := e.Path
	if e.Line > 0 {
		text = fmt.Sprintf("%s:%d", text, e.Line)
	}
	if e.Key != "" {
		text += ": " + e.Key
	}
	return text + ": " + e.Err.Error()
}

// Unwrap returns what is wrong.
func (e *FileError) Unwrap() error { return e.Err }

// decode reads TOML into the struct that v points to. keys are all that exist,
// for the advice about one that does not.
func decode(path string, data []byte, v any, keys []string) error {
	decoder := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err := decoder.Decode(v)
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) && len(missing.Errors) > 0 {
		first := &missing.Errors[0]
		line, _ := first.Position()
		key := strings.Join(first.Key(), ".")
		err := errors.New("unknown key")
		if near := nearest(key[strings.LastIndexByte(key, '.')+1:], keys); near != "" {
			err = fmt.Errorf("unknown key (did you mean %s?)", near)
		}
		return &FileError{Path: path, Line: line, Key: key, Err: err}
	}
	var broken *toml.DecodeError
	if errors.As(err, &broken) {
		line, _ := broken.Position()
		return &FileError{
			Path: path, Line: line, Key: strings.Join(broken.Key(), "."),
			Err: errors.New(strings.TrimPrefix(broken.Error(), "toml: ")),
		}
	}
	if err != nil {
		return &FileError{Path: path, Err: err}
	}
	return nil
}

// lineOf finds the line on which a key is set, at or below line from (both
// count from 1). It returns from when the key is not found at the start of a
// line, as in an inline table.
func lineOf(data []byte, key string, from int) int {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		name, _, assigned := bytes.Cut(line, []byte("="))
		if number >= from && assigned && strings.Trim(string(name), " \t\"'") == key {
			return number
		}
	}
	return from
}

// nearest returns the word that key was most likely meant to be.
func nearest(key string, words []string) string {
	best, distance := "", 1<<30
	for _, word := range words {
		if d := editDistance(key, word); d < distance {
			best, distance = word, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions and replacements of bytes that
// turn a into b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// oneOf returns an error that names the choices if value is none of them.
func oneOf(value string, choices ...string) error {
	if slices.Contains(choices, value) {
		return nil
	}
	return fmt.Errorf("%q is not one of %s", value, strings.Join(choices, ", "))
}
