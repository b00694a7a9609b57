package localapi

import (
	"errors"
	"net/http"
)

// Kind says what an asker can do about an error.
type Kind string

// Kinds of errors.
const (
	KindBadRequest  Kind = "bad_request" // the question makes no sense
	KindNotFound    Kind = "not_found"   // no such peer or address
	KindConflict    Kind = "conflict"    // it cannot stand beside what is there
	KindForbidden   Kind = "forbidden"   // the asker may not
	KindUnreachable Kind = "unreachable" // the peer does not answer
	KindDenied      Kind = "denied"      // the peer said no
	KindNotRunning  Kind = "not_running" // there is no node
	KindInternal    Kind = "internal"    // everything else
)

// Error is an error that keeps its meaning on the way through the socket.
type Error struct {
	Kind Kind
	Text string
	err  error
}

// Wrap gives an error a kind.
func Wrap(kind Kind, err error) *Error { return &Error{Kind: kind, Text: err.Error(), err: err} }

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Unwrap returns what was wrapped, nil on the far side of the socket.
func (e *Error) Unwrap() error { return e.err }

// ErrNotRunning says that there is no node to ask.
var ErrNotRunning = &Error{Kind: KindNotRunning, Text: "not running (try: sudo nodetun up)"}

// KindOf returns the kind of an error, KindInternal for one without.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// wireError is an Error as it travels.
type wireError struct {
	Kind Kind   `json:"kind"`
	Text string `json:"error"`
}

// httpStatus is for those who look at the socket with curl.
func httpStatus(kind Kind) int {
	switch kind {
	case KindBadRequest:
		return http.StatusBadRequest
	case KindNotFound:
		return http.StatusNotFound
	case KindConflict:
		return http.StatusConflict
	case KindForbidden, KindDenied:
		return http.StatusForbidden
	case KindUnreachable:
		return http.StatusGatewayTimeout
	case KindNotRunning:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}
