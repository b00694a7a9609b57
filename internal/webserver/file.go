package webserver

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/plaintext"
)

// ReadTOML reads a configuration file, which nobody else may change (S5). Errors name the file and, where one key is to blame,
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
		return fileError(path, err)
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

// fileError says where the TOML is wrong.
func fileError(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		first := strict.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("%s:%d: unknown key %s", path, line, strings.Join(first.Key(), "."))
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, _ := decode.Position()
		key := strings.Join(decode.Key(), ".")
		if key != "" {
			key += ": "
		}
		return fmt.Errorf("%s:%d: %s%s", path, line, key, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", path, err)
}
