package main

import (
	"errors"

	"github.com/nodetun/nodetun/internal/localapi"
)

// Exit codes (docs/cli.md).
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotRunning  = 3
	exitUnreachable = 4
	exitRelayOnly   = 5
	exitDenied      = 6
)

// codedError is an error with an exit code of its own.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// errSilent is wrapped by errors of which everything was said already.
var errSilent = errors.New("said already")

// usage marks an error as one of usage.
func usage(err error) error { return &codedError{exitUsage, err} }

// exitCode maps an error to the exit code of the program.
func exitCode(err error) int {
	var coded *codedError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	}
	switch localapi.KindOf(err) {
	case localapi.KindNotRunning:
		return exitNotRunning
	case localapi.KindUnreachable:
		return exitUnreachable
	case localapi.KindDenied:
		return exitDenied
	case localapi.KindBadRequest:
		return exitUsage
	default:
		return exitError
	}
}
