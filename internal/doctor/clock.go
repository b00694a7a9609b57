package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nodetun/nodetun/internal/localapi"
)

const (
	// clockPatience is how long a server may take to tell the time.
	clockPatience = 5 * time.Second
	// clockSlack is how far clocks may be apart: signed records of discovery tell the time.
	clockSlack = time.Minute
)

// ClockProbe is what a server said of the time.
type ClockProbe struct {
	Server string
	// Ahead is by how much this machine's clock is ahead of the server's.
	Ahead time.Duration
	Err   error
}

// AskClock asks the relays that the node is connected with for the time, until one tells
// it.
func AskClock(ctx context.Context, relays []localapi.Relay) *ClockProbe {
	var last *ClockProbe
	for _, relay := range relays {
		probe := askClock(ctx, relay.URL)
		if last = &probe; probe.Err == nil || expired(probe.Err) {
			break
		}
	}
	return last
}

func askClock(ctx context.Context, url string) ClockProbe {
	ctx, cancel := context.WithTimeout(ctx, clockPatience)
	defer cancel()
	probe := ClockProbe{Server: url}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		probe.Err = err
		return probe
	}
	began := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		probe.Err = err
		return probe
	}
	defer resp.Body.Close()
	took := time.Since(began)
	said, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		probe.Err = err
		return probe
	}
	probe.Ahead = began.Add(took / 2).Sub(said)
	return probe
}

// expired reports whether a certificate was refused for the time that this machine has.
func expired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// findings judges the clock; a server that was not reached says nothing of it.
func (c *ClockProbe) findings() []Finding {
	const subject, fix = "clock", "sudo timedatectl set-ntp true"
	switch {
	case c == nil || c.Err != nil && !expired(c.Err):
		return nil
	case c.Err != nil:
		return []Finding{{Subject: subject, Text: fmt.Sprintf("it is %s here, and then the certificate of %s is not valid", time.Now().Format(time.RFC1123), c.Server), Fix: fix}}
	case c.Ahead.Abs() <= clockSlack:
		return []Finding{well(subject, fmt.Sprintf("within %v of that of %s", max(time.Second, c.Ahead.Abs().Round(time.Second)), c.Server))}
	case c.Ahead < 0:
		return []Finding{{Subject: subject, Text: fmt.Sprintf("%v behind that of %s: certificates and records may be taken for invalid", -c.Ahead.Round(time.Second), c.Server), Fix: fix}}
	}
	return []Finding{{Subject: subject, Text: fmt.Sprintf("%v ahead of that of %s: certificates and records may be taken for invalid", c.Ahead.Round(time.Second), c.Server), Fix: fix}}
}
