//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// figures are results of one round of one contender, by name.
type figures map[string]float64

// column describes a figure.
type column struct {
	name, unit string
	// less is set where a smaller figure is the better one.
	less bool
	// alone is set where the figure itself counts and not its ratio.
	alone bool
}

// columns are all figures in the order of the table.
var columns = []column{
	{name: "TCP 1 flow", unit: "Gbit/s"},
	{name: "TCP 1 flow back", unit: "Gbit/s"},
	{name: "TCP 1 flow IPv6", unit: "Gbit/s"},
	{name: "TCP 4 flows", unit: "Gbit/s"},
	{name: "TCP 16 flows", unit: "Gbit/s"},
	{name: "CPU per GiB", unit: "s", less: true},
	{name: "UDP 1200 B under 1 % loss", unit: "Gbit/s"},
	{name: "ping p50", unit: "ms", less: true},
	{name: "ping p99", unit: "ms", less: true},
	{name: "ping under load p50", unit: "ms", less: true},
	{name: "ping under load p99", unit: "ms", less: true},
	{name: "connect p50", unit: "µs", less: true},
	{name: "connect p99", unit: "µs", less: true},
	{name: "requests of 1 B", unit: "1/s"},
	{name: "CPU idle", unit: "%", less: true, alone: true},
	{name: "memory after load", unit: "MiB", less: true, alone: true},
	{name: "first ping after up", unit: "ms", less: true, alone: true},
	{name: "long path, bbr", unit: "Mbit/s"},
	{name: "long path, cubic", unit: "Mbit/s"},
}

// measure runs one round.
func (c *contender) measure(seconds int) (figures, error) {
	f := figures{"first ping after up": float64(c.firstPing.Milliseconds())}
	for _, step := range []func(figures, int) error{c.idle, c.latency, c.talk, c.throughput, c.datagrams} {
		if err := step(f, seconds); err != nil {
			return f, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if len(c.pids) > 0 {
		f["memory after load"] = c.memory()
	}
	return f, nil
}

// measureLong runs one round over the long path.
func (c *contender) measureLong(seconds int) (figures, error) {
	f := figures{}
	for _, control := range []string{"bbr", "cubic"} {
		r, err := c.iperf(c.v4, seconds, "-C", control)
		if err != nil {
			return f, fmt.Errorf("%s: %w", c.name, err)
		}
		f["long path, "+control] = r.gbits * 1000
	}
	return f, nil
}

// idle measures what the programs use while nothing is asked of them.
func (c *contender) idle(f figures, seconds int) error {
	if len(c.pids) == 0 {
		return nil
	}
	before := c.used()
	time.Sleep(time.Duration(seconds) * time.Second)
	f["CPU idle"] = (c.used() - before) / float64(seconds) * 100
	return nil
}

// latency measures pings, with nothing else going on.
func (c *contender) latency(f figures, _ int) error {
	times, err := c.ping(200, 10*time.Millisecond)
	if err != nil {
		return err
	}
	f["ping p50"], f["ping p99"] = milli(percentile(times, 50)), milli(percentile(times, 99))
	return nil
}

func milli(d time.Duration) float64 { return float64(d) / 1e6 }

var pingTime = regexp.MustCompile(`time=([0-9.]+) ms`)

// ping returns the round-trip times of count pings.
func (c *contender) ping(count int, gap time.Duration) ([]time.Duration, error) {
	out, err := c.a.runFor(time.Duration(count)*gap+20*time.Second, "ping", "-n", "-c", strconv.Itoa(count), "-i", fmt.Sprintf("%.3f", gap.Seconds()), c.v4)
	if err != nil {
		return nil, err
	}
	var times []time.Duration
	for _, m := range pingTime.FindAllStringSubmatch(out, -1) {
		ms, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, err
		}
		times = append(times, time.Duration(ms*1e6))
	}
	return times, nil
}

// talk measures connections and requests.
func (c *contender) talk(f figures, seconds int) error {
	out, err := c.a.run(self(), "ask", "connect", c.v4, "200")
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(out, ref(f, "connect p50"), ref(f, "connect p99")); err != nil {
		return err
	}
	out, err = c.a.run(self(), "ask", "request", c.v4, strconv.Itoa(seconds*1000))
	if err != nil {
		return err
	}
	_, err = fmt.Sscan(out, ref(f, "requests of 1 B"))
	return err
}

// reference scans a number into a figure.
type reference struct {
	f    figures
	name string
}

func ref(f figures, name string) *reference { return &reference{f, name} }

// Scan implements fmt.Scanner.
func (r *reference) Scan(state fmt.ScanState, _ rune) error {
	token, err := state.Token(true, nil)
	if err != nil {
		return err
	}
	v, err := strconv.ParseFloat(string(token), 64)
	r.f[r.name] = v
	return err
}

// throughput measures TCP, with pings beside one of the runs.
func (c *contender) throughput(f figures, seconds int) error {
	before := machine()
	r, err := c.iperf(c.v4, seconds)
	if err != nil {
		return err
	}
	f["TCP 1 flow"] = r.gbits
	f["CPU per GiB"] = (machine() - before) / (r.bytes / (1 << 30))
	for _, run := range []struct {
		name, host string
		args       []string
	}{
		{"TCP 1 flow back", c.v4, []string{"-R"}},
		{"TCP 1 flow IPv6", c.v6, nil},
		{"TCP 4 flows", c.v4, []string{"-P", "4"}},
		{"TCP 16 flows", c.v4, []string{"-P", "16"}},
	} {
		if r, err = c.iperf(run.host, seconds, run.args...); err != nil {
			return err
		}
		f[run.name] = r.gbits
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.iperf(c.v4, seconds+1)
		done <- err
	}()
	time.Sleep(500 * time.Millisecond) // the flow is at speed
	times, err := c.ping(seconds*50, 20*time.Millisecond)
	if loadErr := <-done; err == nil {
		err = loadErr
	}
	f["ping under load p50"], f["ping under load p99"] = milli(percentile(times, 50)), milli(percentile(times, 99))
	return err
}

// settle is how long datagrams of one run may be under way. The server of iperf3 takes the
// first that comes for the beginning of the next.
const settle = 300 * time.Millisecond

// datagrams looks for the best rate of UDP under 1 % loss.
func (c *contender) datagrams(f figures, _ int) error {
	const name = "UDP 1200 B under 1 % loss"
	low, high := 0.0, 4.0
	for rate := 0.5; high-low > 0.06*high; {
		time.Sleep(settle)
		r, err := c.iperf(c.v4, 1, "-u", "-l", "1200", "-b", fmt.Sprintf("%.0fM", rate*1000))
		if err != nil {
			return err
		}
		if r.lost < 1 && r.gbits > 0.9*rate { // iperf3 itself may not send more
			low = rate
			f[name] = max(f[name], r.gbits)
		} else {
			high = rate
		}
		if rate = (low + high) / 2; low == rate || high == 4.0 {
			rate = min(max(low*1.6, 0.1), high)
		}
		if low >= 3.9 {
			break
		}
	}
	return nil
}

// result is what iperf3 says.
type result struct{ gbits, bytes, lost float64 }

func (c *contender) iperf(host string, seconds int, args ...string) (result, error) {
	argv := append([]string{"iperf3", "-J", "-c", host, "-t", strconv.Itoa(seconds), "--connect-timeout", "5000"}, args...)
	var out string
	var failed error
	// The server needs a moment between two clients.
	err := await(5*time.Second, "iperf3", func() error {
		out, failed = c.a.runFor(time.Duration(seconds+20)*time.Second, argv...)
		if strings.Contains(out, "busy") {
			return failed
		}
		return nil // or it will not get better
	})
	if err != nil {
		return result{}, err
	}
	var report struct {
		Error string
		End   struct {
			Sum         sum
			SumReceived sum `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return result{}, fmt.Errorf("iperf3 %s: %w: %s", strings.Join(args, " "), errors.Join(failed, err), out)
	}
	if report.Error != "" {
		return result{}, fmt.Errorf("iperf3: %s", report.Error)
	}
	s := report.End.SumReceived
	if s.Bytes == 0 {
		s = report.End.Sum
	}
	lost := max(s.Lost, report.End.Sum.Lost)
	return result{gbits: s.Bits / 1e9, bytes: s.Bytes, lost: lost}, nil
}

type sum struct {
	Bytes float64
	Bits  float64 `json:"bits_per_second"`
	Lost  float64 `json:"lost_percent"`
}

// clockTick is USER_HZ: what /proc counts in, on every Linux that Go runs on.
const clockTick = 100.0

// machine returns the CPU seconds that the whole machine has used.
func machine() float64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(strings.SplitN(string(b), "\n", 2)[0])
	total := 0.0
	for i, field := range fields[1:] {
		if i == 3 || i == 4 || i > 7 { // idle, waiting; guests are counted already
			continue
		}
		n, _ := strconv.ParseFloat(field, 64)
		total += n
	}
	return total / clockTick
}

// used returns the CPU seconds that the contender's programs have used.
func (c *contender) used() float64 {
	total := 0.0
	for _, pid := range c.pids {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue
		}
		// Behind the name, which may hold anything: state is field 3.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		for _, i := range []int{11, 12} { // utime, stime
			n, _ := strconv.ParseFloat(fields[i], 64)
			total += n
		}
	}
	return total / clockTick
}

var residentSize = regexp.MustCompile(`VmRSS:\s+([0-9]+) kB`)

// memory returns the larger resident size of the contender's programs.
func (c *contender) memory() float64 {
	most := 0.0
	for _, pid := range c.pids {
		b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		if m := residentSize.FindSubmatch(b); m != nil {
			kb, _ := strconv.ParseFloat(string(m[1]), 64)
			most = max(most, kb/1024)
		}
	}
	return most
}
