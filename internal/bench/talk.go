//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"time"
)

// talkPort is that of `bench serve`.
const talkPort = "5300"

// serve answers each byte of each connection with the same byte, until it is
// ended.
func serve() error {
	l, err := net.Listen("tcp", ":"+talkPort)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// ask runs one measure against `bench serve` and prints its figures in one
// line: `connect` p50 and p99 in microseconds, `request` round trips a second
// and p50 in microseconds.
func ask(kind, host string, count int) error {
	target := net.JoinHostPort(host, talkPort)
	switch kind {
	case "connect":
		times, err := connects(target, count)
		if err != nil {
			return err
		}
		fmt.Println(micro(percentile(times, 50)), micro(percentile(times, 99)))
	case "request":
		times, took, err := requests(target, time.Duration(count)*time.Millisecond)
		if err != nil {
			return err
		}
		fmt.Println(float64(len(times))/took.Seconds(), micro(percentile(times, 50)))
	default:
		return errors.New("unknown measure " + strconv.Quote(kind))
	}
	return nil
}

func micro(d time.Duration) float64 { return float64(d) / 1e3 }

func connects(target string, count int) ([]time.Duration, error) {
	var times []time.Duration
	for range count {
		began := time.Now()
		conn, err := net.DialTimeout("tcp", target, 5*time.Second)
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
		// No TIME_WAIT here: ports are not what is measured.
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	return times, nil
}

func requests(target string, d time.Duration) ([]time.Duration, time.Duration, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", target)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(d + 10*time.Second))
	var times []time.Duration
	b := []byte{1}
	began := time.Now()
	for time.Since(began) < d {
		sent := time.Now()
		if _, err := conn.Write(b); err != nil {
			return nil, 0, err
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return nil, 0, err
		}
		times = append(times, time.Since(sent))
	}
	return times, time.Since(began), nil
}

// percentile sorts the list and returns the value below which p of a hundred
// lie; zero for an empty one.
func percentile(list []time.Duration, p int) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(len(list)*p/100, len(list)-1)]
}

// self is the path of this program, to be started again inside a namespace.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}
