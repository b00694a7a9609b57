package tcpdiff

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Op is one call, or a few that belong together, at one end of a connection.
type Op struct {
	End  End
	Verb Verb
	// Conn is the number of the connection, Arg what the verb says.
	Conn, Arg int
}

// End is the machine that calls.
type End string

// The two ends.
const (
	Client End = "client"
	Server End = "server"
)

// Verb is what is called.
type Verb string

// Verbs. Those that have no socket to work on do nothing.
const (
	Listen   Verb = "listen"   // with a backlog of Arg
	Unlisten Verb = "unlisten" // close the listener
	Connect  Verb = "connect"  // and wait; from the port that Arg names, see Port
	Start    Verb = "start"    // the same without waiting
	Await    Verb = "await"    // the end of what Start began
	Accept   Verb = "accept"
	Send     Verb = "send"     // Arg bytes
	Urgent   Verb = "urgent"   // one byte with MSG_OOB, which the tunnel carries in line
	Receive  Verb = "receive"  // at most Arg bytes of what is there
	Drain    Verb = "drain"    // all that is there
	Pump     Verb = "pump"     // Arg bytes, that the other end receives meanwhile
	Shutdown Verb = "shutdown" // of reading, writing, both: 0, 1, 2
	Close    Verb = "close"
	Abort    Verb = "abort" // close with a linger time of 0
	Poll     Verb = "poll"
	Error    Verb = "error" // SO_ERROR
	Option   Verb = "option"
	Names    Verb = "names" // getpeername and getsockname
	Churn    Verb = "churn" // Arg connections from one port, which this end closes first, and resets every third
)

// Values of Arg of Connect and Start.
const (
	anyPort  = iota
	lowPort  // below 1024
	highPort // above
	samePort // that of the last connect of this number, if it had one
)

// maxConns is how many connections a script has.
const maxConns = 3

// Script is calls one after the other.
type Script []Op

// String is the form that Parse reads: a line for each call.
func (s Script) String() string {
	var b strings.Builder
	for _, op := range s {
		fmt.Fprintln(&b, op)
	}
	return b.String()
}

func (op Op) String() string { return fmt.Sprintf("%s %s %d %d", op.End, op.Verb, op.Conn, op.Arg) }

// Parse reads a script. Lines that begin with # are comments.
func Parse(text string) (Script, error) {
	var s Script
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		var op Op
		if _, err := fmt.Sscanf(line, "%s %s %d %d", &op.End, &op.Verb, &op.Conn, &op.Arg); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		switch {
		case op.End != Client && op.End != Server:
			return nil, fmt.Errorf("%q: no such end", line)
		case !slices.ContainsFunc(verbs, func(w weighted) bool { return w.verb == op.Verb }):
			return nil, fmt.Errorf("%q: no such verb", line)
		case op.Conn < 0 || op.Conn >= maxConns || op.Arg < 0:
			return nil, fmt.Errorf("%q: out of range", line)
		}
		s = append(s, op)
	}
	return s, nil
}

type weighted struct {
	verb   Verb
	weight int
}

var verbs = []weighted{
	{Connect, 6},
	{Start, 2},
	{Await, 2},
	{Accept, 6},
	{Send, 16},
	{Receive, 10},
	{Drain, 6},
	{Pump, 3},
	{Shutdown, 8},
	{Close, 7},
	{Abort, 4},
	{Poll, 8},
	{Error, 3},
	{Option, 3},
	{Names, 2},
	{Listen, 1},
	{Unlisten, 1},
	{Churn, 1},
	{Urgent, 0},
}

// maxUnread bounds what a script sends and nobody has received yet, so that no call
// depends on the sizes of buffers, which may differ.
const maxUnread = 40_000

// Generate makes the script of a seed.
func Generate(seed uint64) Script {
	r := rand.New(rand.NewPCG(seed, 0x7C9D1FF))
	s := Script{{Server, Listen, 0, r.IntN(4) * 8}}
	if r.IntN(8) > 0 {
		s = append(s, Op{Client, Connect, 0, r.IntN(4)}, Op{Server, Accept, 0, 0})
	}
	total := 0
	for _, w := range verbs {
		total += w.weight
	}
	unread := map[Op]int{} // by end and connection
	for n := 3 + r.IntN(14); len(s) < n; {
		op := Op{End: Client, Verb: pick(r, total), Conn: conn(r)}
		if r.IntN(2) == 0 {
			op.End = Server
		}
		switch op.Verb {
		case Connect, Start:
			op.End, op.Arg = Client, r.IntN(4)
		case Await:
			op.End = Client
		case Accept, Unlisten:
			op.End = Server
		case Listen:
			op.End, op.Arg = Server, r.IntN(4)*8
		case Send:
			op.Arg = size(r)
			way := Op{End: op.End, Conn: op.Conn}
			if unread[way] += op.Arg; unread[way] > maxUnread {
				continue
			}
		case Receive:
			op.Arg = size(r)
		case Pump:
			op.Arg = 1 << (10 + r.IntN(11))
		case Shutdown:
			op.Arg = r.IntN(3)
		case Churn:
			op.Arg = 1 + r.IntN(30)
		case Option:
			op.Arg = r.IntN(len(options))
		}
		s = append(s, op)
	}
	return s
}

func pick(r *rand.Rand, total int) Verb {
	n := r.IntN(total)
	for _, w := range verbs {
		if n -= w.weight; n < 0 {
			return w.verb
		}
	}
	panic("weights do not add up")
}

// conn prefers the first connection: more happens on it.
func conn(r *rand.Rand) int { return max(0, r.IntN(maxConns+2)-2) }

// size is a number of bytes of any magnitude.
func size(r *rand.Rand) int { return 1 + r.IntN(1<<(1+r.IntN(14))) }

// Shrink returns a shorter script for which differs holds still, if there is one. It
// calls differs at most 200 times.
func Shrink(s Script, differs func(Script) bool) Script {
	tries := 0
	try := func(candidate Script) bool {
		tries++
		return tries <= 200 && differs(candidate)
	}
	for size := len(s) / 2; size > 0; {
		shorter := false
		for at := 0; at+size <= len(s); {
			if without := slices.Delete(slices.Clone(s), at, at+size); try(without) {
				s, shorter = without, true
			} else {
				at += size
			}
		}
		if !shorter || size > 1 {
			size /= 2
		}
	}
	for i, op := range s {
		for op.Arg > 3 && (op.Verb == Send || op.Verb == Receive || op.Verb == Pump || op.Verb == Churn) {
			op.Arg /= 4
			candidate := slices.Clone(s)
			if candidate[i] = op; !try(candidate) {
				break
			}
			s = candidate
		}
	}
	return s
}
