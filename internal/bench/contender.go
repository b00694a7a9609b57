//go:build linux

package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// contender is one way from host a to host b.
type contender struct {
	name string
	a, b ns
	// v4 and v6 are b's addresses as a sees them; v6 may be empty.
	v4, v6 string
	// pids are those of the programs that carry the packets; none for a cable.
	pids []int
	// firstPing is the time from the start of both programs to the first answer.
	firstPing time.Duration
}

const (
	outside4 = "10.1.0."  // .1 is a, .2 is b
	outside6 = "fd00:1::" // likewise
)

// hosts makes the two hosts of a contender and the cable between them.
func (w *world) hosts(name string) (*contender, error) {
	c := &contender{name: name}
	var err error
	short := strings.NewReplacer(" ", "", "=", "", "-", "").Replace(name)
	if c.a, err = w.namespace(short[:min(8, len(short))] + "-a"); err != nil {
		return nil, err
	}
	if c.b, err = w.namespace(short[:min(8, len(short))] + "-b"); err != nil {
		return nil, err
	}
	return c, w.cable(c.a, outside4+"1/24 "+outside6+"1/64", c.b, outside4+"2/24 "+outside6+"2/64")
}

// bare is the cable itself.
func (w *world) bare() (*contender, error) {
	c, err := w.hosts("cable")
	if err != nil {
		return nil, err
	}
	c.v4, c.v6 = outside4+"2", outside6+"2"
	return c, c.awaitPing(time.Now())
}

// awaitPing waits for the first answer and notes how long it took since began.
func (c *contender) awaitPing(began time.Time) error {
	err := await(20*time.Second, c.name+": first ping", func() error {
		_, err := c.a.run("ping", "-c", "1", "-W", "1", "-n", "-q", c.v4)
		return err
	})
	c.firstPing = time.Since(began)
	return err
}

// wireguard sets up wireguard-go.
func (w *world) wireguard(binary string) (*contender, error) {
	c, err := w.hosts("wireguard-go")
	if err != nil {
		return nil, err
	}
	keys := [2]*ecdh.PrivateKey{}
	for i := range keys {
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
	}
	c.v4, c.v6 = "10.2.0.2", "fd00:2::2"
	for i, n := range []ns{c.a, c.b} {
		// The name is that of its socket, which all namespaces share.
		dev := fmt.Sprintf("ntb%d%c", os.Getpid(), 'a'+i)
		p, err := w.start(n, []string{"WG_PROCESS_FOREGROUND=1"}, binary, dev)
		if err != nil {
			return nil, err
		}
		c.pids = append(c.pids, p.Pid)
		settings := fmt.Sprintf("set=1\nprivate_key=%x\nlisten_port=51820\npublic_key=%x\nendpoint=%s%d:51820\nallowed_ip=10.2.0.%d/32\nallowed_ip=fd00:2::%d/128\n\n",
			keys[i].Bytes(), keys[1-i].PublicKey().Bytes(), outside4, 2-i, 2-i, 2-i)
		if err := await(5*time.Second, "wireguard-go", func() error { return uapi(dev, settings) }); err != nil {
			return nil, err
		}
		for _, argv := range [][]string{
			{"ip", "addr", "add", fmt.Sprintf("10.2.0.%d/24", i+1), "dev", dev},
			{"ip", "-6", "addr", "add", fmt.Sprintf("fd00:2::%d/64", i+1), "dev", dev, "nodad"},
			{"ip", "link", "set", dev, "mtu", "1420", "up"},
		} {
			if _, err := n.run(argv...); err != nil {
				return nil, err
			}
		}
	}
	return c, c.awaitPing(time.Now())
}

// uapi configures a WireGuard device through its socket.
func uapi(dev, settings string) error {
	conn, err := net.Dial("unix", "/var/run/wireguard/"+dev+".sock")
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte(settings)); err != nil {
		return err
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if !strings.Contains(string(answer[:n]), "errno=0") {
		return fmt.Errorf("wireguard-go says %q", answer[:n])
	}
	return nil
}

// nodetun sets up two nodes with the given settings; by a relay if one is named.
func (w *world) nodetun(binary, name, settings string, relayed bool) (*contender, error) {
	c, err := w.hosts(name)
	if err != nil {
		return nil, err
	}
	relay := "none"
	if relayed {
		relay = "http://" + outside4 + "1:3340"
		if _, err := w.start(c.a, nil, binary, "relay", "--dev", "--addr", ":3340"); err != nil {
			return nil, err
		}
		if _, err := c.b.run("nft", "add table inet f; add chain inet f i { type filter hook input priority 0; }; add rule inet f i udp dport 41820 drop"); err != nil {
			return nil, err
		}
	}
	hosts := [2]node{}
	for i, n := range []ns{c.a, c.b} {
		if hosts[i], err = w.node(binary, n, settings); err != nil {
			return nil, err
		}
	}
	for i, h := range hosts {
		args := []string{"peer", "add", hosts[1-i].id, "--name", "other", "--allow", "all"}
		if relayed {
			args = append(args, "--relay", relay)
		} else {
			args = append(args, "--addr", fmt.Sprintf("%s%d:41820", outside4, 2-i))
		}
		if _, err := h.nodetun(args...); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	for _, h := range hosts {
		p, err := w.start(h.ns, nil, append([]string{binary, "up", "--dns", "none", "--relay", relay}, h.flags...)...)
		if err != nil {
			return nil, err
		}
		c.pids = append(c.pids, p.Pid)
	}
	if err := await(10*time.Second, name+" is up", func() error {
		out, err := hosts[0].nodetun("ip", "other", "-4")
		if c.v4 = strings.TrimSpace(out); c.v4 == "" && err == nil {
			err = errors.New("it has no IPv4 address yet") // the answer of a node that does not run
		}
		return err
	}); err != nil {
		return nil, err
	}
	if err := c.awaitPing(began); err != nil {
		return nil, err
	}
	out, err := hosts[0].nodetun("ip", "other", "-6")
	c.v6 = strings.TrimSpace(out)
	return c, err
}

// node is one nodetun host.
type node struct {
	ns     ns
	binary string
	flags  []string
	id     string
}

func (w *world) node(binary string, n ns, settings string) (node, error) {
	random := make([]byte, 4)
	rand.Read(random)
	dir := filepath.Join(w.dir, hex.EncodeToString(random))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return node{}, err
	}
	file := filepath.Join(dir, "nodetun.toml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		return node{}, err
	}
	h := node{ns: n, binary: binary, flags: []string{"--state-dir", filepath.Join(dir, "state"), "--socket", filepath.Join(dir, "run", "s"), "--config", file}}
	id, err := h.nodetun("id", "--create")
	h.id = strings.TrimSpace(id)
	return h, err
}

func (h node) nodetun(args ...string) (string, error) {
	return h.ns.run(append(append([]string{h.binary}, args...), h.flags...)...)
}
