package webserver

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/plaintext"
)

// ReadTOML reads a configuration file, which nobody else may change (S5), into a struct. Errors name the file and, where one key is to blame,
// its line; a key that the value has no place for is one.
func ReadTOML(path string, into any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := filecheck.Trusted(path, info); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if data, err = plaintext.Clean(data); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(into); err != nil {
		return fileError(path, err, reflect.TypeOf(into).Elem())
	}
	return nil
}

// CheckSecret refuses a file with secrets, whatever they are, that others can read (S5).
func CheckSecret(path, what string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return filecheck.Secret(path, what+" in it", info)
}

// fileError says where the TOML is wrong, and what a key of the form takes.
func fileError(path string, err error, form reflect.Type) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		first := strict.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("%s:%d: unknown key %s", path, line, strings.Join(first.Key(), "."))
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, _ := decode.Position()
		key, what := strings.Join(decode.Key(), "."), strings.TrimPrefix(decode.Error(), "toml: ")
		if key != "" {
			key += ": "
		}
		if strings.HasPrefix(what, "cannot decode TOML") || strings.HasPrefix(what, "cannot store") { // and Go's name of a type
			what = "must be " + takes(form, decode.Key())
		}
		return fmt.Errorf("%s:%d: %s%s", path, line, key, what)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// takes names the values of a key in a struct, in the words of TOML.
func takes(form reflect.Type, key []string) string {
	for form.Kind() == reflect.Pointer {
		form = form.Elem()
	}
	if form.Kind() == reflect.Struct && len(key) > 0 {
		for field := range form.Fields() {
			if field.Tag.Get("toml") == key[0] {
				return takes(field.Type, key[1:])
			}
		}
	}
	switch form.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.String:
		return "text in quotes"
	case reflect.Slice:
		return `a list such as ["one", "two"]`
	default:
		return "a table"
	}
}
