package tcpdiff

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Path is one of the two ways from the client's host to the server's.
type Path struct {
	Client, Server netip.Addr
	// ClientSocket and ServerSocket make a socket on that host.
	ClientSocket, ServerSocket func(family int) (int, error)
	// Settle is how long the effects of a call may take to arrive.
	Settle time.Duration
}

// Ports are those that a run has for itself on both hosts.
type Ports struct {
	Server uint16
	Low    uint16 // and the maxConns after it; the last is churn's
	High   uint16
}

// Limits of calls that wait.
const (
	connectWait = 3 * time.Second
	sendWait    = 5 * time.Second
	pumpWait    = 10 * time.Second
)

// options are what Option sets: level, name, value.
var options = [][3]int{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 2000},
	{unix.IPPROTO_TCP, unix.TCP_CORK, 1},
	{unix.IPPROTO_TCP, unix.TCP_CORK, 0},
}

// run is a script under way.
type run struct {
	Path
	ports    Ports
	listener int
	conns    map[End]*[maxConns]socket
	marks    [maxConns + 1]uint16 // ports that connections were bound to, and those of churn
}

// socket is a descriptor, and how many bytes it has sent and received.
type socket struct {
	fd             int
	sent, received int
	deaf           bool // it was shut down for reading
}

// Run runs the script and returns what each call did.
func Run(s Script, path Path, ports Ports) []string {
	r := &run{Path: path, ports: ports, listener: -1, conns: map[End]*[maxConns]socket{Client: {}, Server: {}}}
	for _, end := range r.conns {
		for i := range end {
			end[i].fd = -1
		}
	}
	defer r.closeAll()
	results := make([]string, len(s))
	for i, op := range s {
		if results[i] = r.do(op); results[i] != nothing {
			time.Sleep(r.Settle)
		}
	}
	return results
}

// nothing is what a call without a socket returns.
const nothing = "-"

func (r *run) closeAll() {
	if r.listener >= 0 {
		_ = unix.Close(r.listener)
	}
	for _, end := range r.conns {
		for _, c := range end {
			if c.fd >= 0 {
				_ = abort(c.fd)
			}
		}
	}
}

func (r *run) do(op Op) string {
	c := &r.conns[op.End][op.Conn]
	switch op.Verb {
	case Listen:
		return r.listen(op.Arg)
	case Unlisten:
		if r.listener < 0 {
			return nothing
		}
		err := unix.Close(r.listener)
		r.listener = -1
		return result(err)
	case Connect:
		if got := r.start(op, c); got != name(unix.EINPROGRESS) {
			return got
		}
		return await(c.fd)
	case Start:
		return r.start(op, c)
	case Accept:
		return r.accept(op, c)
	case Churn:
		return r.churn(op)
	}
	if c.fd < 0 {
		return nothing
	}
	switch op.Verb {
	case Await:
		return await(c.fd)
	case Send:
		return c.send(op.Arg, sendWait)
	case Urgent:
		_, err := unix.SendmsgN(c.fd, []byte{'!'}, nil, nil, unix.MSG_OOB|unix.MSG_NOSIGNAL)
		return result(err)
	case Receive:
		return c.receive(op.Arg)
	case Drain:
		return c.receive(1 << 30)
	case Pump:
		return r.pump(op, c)
	case Shutdown:
		c.deaf = c.deaf || op.Arg%3 != 1
		return result(unix.Shutdown(c.fd, []int{unix.SHUT_RD, unix.SHUT_WR, unix.SHUT_RDWR}[op.Arg%3]))
	case Close:
		err := unix.Close(c.fd)
		c.fd = -1
		return result(err)
	case Abort:
		err := abort(c.fd)
		c.fd = -1
		return result(err)
	case Poll:
		return poll(c.fd)
	case Error:
		code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return result(err)
	case Option:
		o := options[op.Arg%len(options)]
		return result(unix.SetsockoptInt(c.fd, o[0], o[1], o[2]))
	case Names:
		return r.names(op, c)
	}
	return "no such verb"
}

func (r *run) listen(backlog int) string {
	if r.listener >= 0 {
		return nothing
	}
	fd, err := r.ServerSocket(family(r.Server))
	if err != nil {
		return "socket: " + result(err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err = unix.Bind(fd, address(r.Server, r.ports.Server)); err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = unix.Close(fd)
		return result(err)
	}
	r.listener = fd
	return result(nil)
}

// start begins to connect, in the place of what there is.
func (r *run) start(op Op, c *socket) string {
	if c.fd >= 0 {
		return nothing
	}
	fd, err := r.ClientSocket(family(r.Client))
	if err != nil {
		return "socket: " + result(err)
	}
	*c = socket{fd: fd}
	port := uint16(0)
	switch op.Arg % 4 {
	case lowPort:
		port = r.ports.Low + uint16(op.Conn)
	case highPort:
		port = r.ports.High + uint16(op.Conn)
	case samePort:
		port = r.marks[op.Conn]
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, address(r.Client, port)); err != nil {
		return "bind: " + result(err)
	}
	r.marks[op.Conn] = port
	return result(unix.Connect(fd, address(r.Server, r.ports.Server)))
}

// await waits for a connect, and says how it ended.
func await(fd int) string {
	if !ready(fd, unix.POLLOUT, connectWait) {
		return "waits"
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return result(err)
}

// accept takes the next connection that waits. The name of the caller is told unless
// its kernel chose the port.
func (r *run) accept(op Op, c *socket) string {
	if r.listener < 0 || c.fd >= 0 {
		return nothing
	}
	fd, from, err := unix.Accept4(r.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return result(err)
	}
	*c = socket{fd: fd}
	return "from " + r.describe(from)
}

// churn makes connections one after the other, each with a byte in both directions.
func (r *run) churn(op Op) string {
	if r.listener < 0 || ready(r.listener, unix.POLLIN, 0) {
		return nothing // others wait to be accepted
	}
	for i := range op.Arg {
		if what := r.once(op.End, i%3 == 2); what != "" {
			return fmt.Sprintf("%d then %s", i, what)
		}
	}
	return fmt.Sprint(op.Arg)
}

// once makes a connection from the last of the low ports, and says what failed. One end
// is the first to close it, or resets it.
func (r *run) once(first End, resets bool) string {
	client, server := socket{fd: -1}, socket{fd: -1}
	defer func() {
		for _, c := range []socket{client, server} {
			if c.fd >= 0 {
				_ = unix.Close(c.fd)
			}
		}
	}()
	if got := r.start(Op{Client, Start, maxConns, lowPort}, &client); got != name(unix.EINPROGRESS) {
		return got
	}
	if got := await(client.fd); got != "ok" {
		return got
	}
	ready(r.listener, unix.POLLIN, connectWait)
	if got := r.accept(Op{}, &server); got != fmt.Sprintf("from client:low%d", maxConns) {
		return got
	}
	ends := []*socket{&client, &server}
	for _, c := range ends {
		if got := c.send(1, sendWait); got != "ok" {
			return got
		}
	}
	for _, c := range ends {
		ready(c.fd, unix.POLLIN, connectWait)
		if got := c.receive(1); got != "1" {
			return got
		}
	}
	if first == Server {
		slices.Reverse(ends)
	}
	if resets {
		_ = abort(ends[0].fd)
		ends[0].fd = -1
		if !ready(ends[1].fd, unix.POLLIN, connectWait) {
			return "no reset"
		}
		if got := ends[1].receive(1); got != "0 then ECONNRESET" {
			return got
		}
		return ""
	}
	for _, c := range ends { // the second after it has seen the end
		_ = unix.Shutdown(c.fd, unix.SHUT_WR)
		other := ends[1]
		if c == other {
			other = ends[0]
		}
		if !ready(other.fd, unix.POLLIN, connectWait) {
			return "no end"
		}
		if got := other.receive(1); got != "0 then end" {
			return got
		}
	}
	return ""
}

func (r *run) names(op Op, c *socket) string {
	peer, err := unix.Getpeername(c.fd)
	if err != nil {
		return result(err)
	}
	own, err := unix.Getsockname(c.fd)
	if err != nil {
		return result(err)
	}
	return r.describe(own) + " with " + r.describe(peer)
}

// describe names an address by what it means to the script.
func (r *run) describe(sa unix.Sockaddr) string {
	addr, port := netip.Addr{}, 0
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		addr, port = netip.AddrFrom4(sa.Addr), sa.Port
	case *unix.SockaddrInet6:
		addr, port = netip.AddrFrom16(sa.Addr), sa.Port
	}
	host := "somebody"
	switch addr {
	case r.Client:
		host = "client"
	case r.Server:
		host = "server"
	}
	switch p := uint16(port); {
	case p == r.ports.Server:
		return host + ":server"
	case p >= r.ports.Low && p <= r.ports.Low+maxConns:
		return fmt.Sprintf("%s:low%d", host, p-r.ports.Low)
	case p >= r.ports.High && p < r.ports.High+maxConns:
		return fmt.Sprintf("%s:high%d", host, p-r.ports.High)
	}
	return host + ":any"
}

// send sends n bytes of the pattern, and waits for room.
//
// A connect that waits still goes on meanwhile.
func (c *socket) send(n int, wait time.Duration) string {
	end := time.Now().Add(wait)
	for n > 0 {
		done, err := unix.SendmsgN(c.fd, pattern(c.sent, n), nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EAGAIN) && ready(c.fd, unix.POLLOUT, time.Until(end)) {
			continue
		}
		if err != nil {
			return result(err)
		}
		c.sent += done
		n -= done
	}
	return result(nil)
}

// receive takes what is there, n bytes at most.
func (c *socket) receive(n int) string {
	got := 0
	buf := make([]byte, 64<<10)
	for got < n {
		k, err := unix.Read(c.fd, buf[:min(len(buf), n-got)])
		switch {
		case err != nil:
			return fmt.Sprintf("%d then %s", got, result(err))
		case k == 0:
			return fmt.Sprintf("%d then end", got)
		}
		if at := mismatch(buf[:k], c.received); at >= 0 {
			return fmt.Sprintf("%d then wrong bytes", got+at)
		}
		c.received += k
		got += k
	}
	return fmt.Sprint(got)
}

// pump sends n bytes while the other end receives all that is there.
func (r *run) pump(op Op, c *socket) string {
	other := &r.conns[Server][op.Conn]
	if op.End == Server {
		other = &r.conns[Client][op.Conn]
	}
	if other.fd < 0 || !joined(c.fd, other.fd) || other.deaf || ended(other.fd) {
		return nothing // how much goes into buffers does not count
	}
	before := other.received
	want := c.sent + op.Arg // with what was sent before and is still there
	var sent string
	var sending sync.WaitGroup
	sending.Go(func() { sent = c.send(op.Arg, pumpWait) })
	over := time.Now().Add(pumpWait)
	received := ""
	for other.received < want {
		if !ready(other.fd, unix.POLLIN, min(time.Until(over), pumpQuiet+20*r.Settle)) {
			break
		}
		got := other.receive(want - other.received)
		if !strings.HasSuffix(got, name(unix.EAGAIN)) {
			if _, end, found := strings.Cut(got, "then "); found {
				received = " then " + end
				break
			}
		}
	}
	if received != "" { // nobody receives any more
		_ = unix.Shutdown(other.fd, unix.SHUT_RD)
	}
	sending.Wait()
	return fmt.Sprintf("sends %s, receives %d%s", sent, other.received-before, received)
}

// joined reports whether two sockets are the ends of one connection.
func joined(a, b int) bool {
	return named(a, unix.Getsockname, b, unix.Getpeername) && named(b, unix.Getsockname, a, unix.Getpeername)
}

func named(a int, nameA func(int) (unix.Sockaddr, error), b int, nameB func(int) (unix.Sockaddr, error)) bool {
	ofA, errA := nameA(a)
	ofB, errB := nameB(b)
	return errA == nil && errB == nil && reflect.DeepEqual(ofA, ofB)
}

// ended reports whether a socket receives nothing any more.
func ended(fd int) bool {
	n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK)
	return n == 0 && err == nil || err != nil && !errors.Is(err, unix.EAGAIN)
}

// pumpQuiet is after how much silence nothing more is expected.
const pumpQuiet = 100 * time.Millisecond

// pattern returns n bytes of the stream of any connection, from an offset on.
func pattern(offset, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byteAt(offset + i)
	}
	return b
}

func byteAt(i int) byte { return byte(i ^ i>>8 ^ i>>16) }

// mismatch returns where b is not the pattern, or -1.
func mismatch(b []byte, offset int) int {
	for i := range b {
		if b[i] != byteAt(offset+i) {
			return i
		}
	}
	return -1
}

// abort closes with a reset.
func abort(fd int) error {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return unix.Close(fd)
}

// ready waits for an event.
func ready(fd int, events int16, wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for end := time.Now().Add(wait); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end)).Milliseconds())+1)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// poll says what is to be said of a socket now.
func poll(fd int) string {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT | unix.POLLRDHUP | unix.POLLPRI}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return result(err)
	}
	var said []string
	for _, event := range []struct {
		bit  int16
		name string
	}{
		{unix.POLLIN, "in"},
		{unix.POLLOUT, "out"},
		{unix.POLLPRI, "pri"},
		{unix.POLLRDHUP, "rdhup"},
		{unix.POLLHUP, "hup"},
		{unix.POLLERR, "err"},
	} {
		if fds[0].Revents&event.bit != 0 {
			said = append(said, event.name)
		}
	}
	return strings.Join(said, "|")
}

// result is the name of an error.
func result(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return name(errno)
	}
	return err.Error()
}

func name(errno unix.Errno) string { return unix.ErrnoName(errno) }

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func address(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}
