// Echo shows an endpoint at work: one node answers with what it gets, another
// sends and compares.
//
//	echo listen [--alpn A] [--bind IP:PORT]... [--relay URL]... [--key HEXSEED]
//	echo dial NODEID [--addr IP:PORT]... [--relay URL] [--alpn A] [--bytes N] [--bind IP:PORT]... [--key HEXSEED]
//
// listen prints one line of JSON, {"nodeId","directAddresses","relayUrl"}, once
// it can be dialled, and echoes bidirectional streams and datagrams until it is
// killed. dial sends N bytes on a stream and a datagram, prints one line,
// {"ok","bytes","ms","path"}, and exits with 0; when that fails it says why on
// stderr and exits with 1. NODEID may be a ticket too.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: echo listen [--alpn A] [--bind IP:PORT] [--relay URL] [--key HEXSEED] | echo dial NODEID [--addr IP:PORT]... [--relay URL] [--alpn A] [--bytes N]")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	opts, err := parse(args[1:])
	if err != nil {
		return err
	}
	switch {
	case args[0] == "listen" && opts.node == "":
		return listen(ctx, opts)
	case args[0] == "dial" && opts.node != "":
		return dial(ctx, opts)
	default:
		return errUsage
	}
}

// options are the flags of both commands.
type options struct {
	node   string // of dial: a NodeID or ticket
	alpn   string
	bind   []netip.AddrPort
	addrs  []netip.AddrPort
	relays []identity.RelayURL
	key    *identity.SecretKey
	bytes  int
}

// parse reads flags, --name VALUE or --name=VALUE, before or after NODEID.
func parse(args []string) (options, error) {
	opts := options{alpn: "n0/iroh/examples/echo/0", bytes: 1 << 20}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "--") {
			if opts.node != "" {
				return opts, errUsage
			}
			opts.node = arg
			continue
		}
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			if len(args) == 0 {
				return opts, fmt.Errorf("%s needs a value", name)
			}
			value, args = args[0], args[1:]
		}
		if err := opts.set(name, value); err != nil {
			return opts, fmt.Errorf("%s %s: %w", name, value, err)
		}
	}
	if opts.key == nil {
		opts.key = identity.GenerateSecretKey()
	}
	return opts, nil
}

func (o *options) set(name, value string) (err error) {
	switch name {
	case "--alpn":
		o.alpn = value
	case "--bind":
		err = addAddr(&o.bind, value)
	case "--addr":
		err = addAddr(&o.addrs, value)
	case "--relay":
		var url identity.RelayURL
		url, err = identity.ParseRelayURL(value)
		o.relays = append(o.relays, url)
	case "--key":
		if o.key, err = identity.ParseSecretKey(value); err != nil {
			err = errors.New("want 64 hex digits")
		}
	case "--bytes":
		if _, err = fmt.Sscan(value, &o.bytes); err == nil && o.bytes < 0 {
			err = errors.New("less than nothing")
		}
	default:
		return errUsage
	}
	return err
}

func addAddr(list *[]netip.AddrPort, text string) error {
	addr, err := netip.ParseAddrPort(text)
	*list = append(*list, addr)
	return err
}

// socket is the configuration of the packet socket. Loopback addresses are
// dialled from a socket on loopback only, so without --bind they say where to
// bind.
func (o *options) socket() magicsock.Config {
	cfg := magicsock.Config{Key: o.key, Relays: o.relays}
	bind := o.bind
	for _, addr := range o.addrs {
		if len(o.bind) == 0 && addr.Addr().IsLoopback() {
			bind = append(bind, netip.AddrPortFrom(addr.Addr(), 0))
		}
	}
	for _, addr := range bind {
		if addr.Addr().Is4() {
			cfg.Bind4 = addr
		} else {
			cfg.Bind6 = addr
		}
	}
	return cfg
}

// start makes an endpoint and runs it; stop ends it and waits.
func start(ctx context.Context, cfg endpoint.Config) (e *endpoint.Endpoint, stop func(), err error) {
	if e, err = endpoint.New(cfg); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "echo:", err)
		}
	}()
	return e, func() { cancel(); <-done }, nil
}

// printJSON prints one line.
func printJSON(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
