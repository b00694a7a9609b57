package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// pattern makes n bytes that differ from those of another seed.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rng.Read(b)
	return b
}

func TestEcho(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			_, near, far := connect(t, family.src, family.dst)
			if near.LocalAddr() != family.src || near.RemoteAddr() != family.dst {
				t.Errorf("near end: %v to %v", near.LocalAddr(), near.RemoteAddr())
			}
			if far.LocalAddr() != family.dst || far.RemoteAddr() != family.src {
				t.Errorf("far end: %v to %v", far.LocalAddr(), far.RemoteAddr())
			}
			for _, say := range []string{"hello", "", "again"} {
				if n, err := near.Write([]byte(say)); n != len(say) || err != nil {
					t.Fatal(n, err)
				}
				got := make([]byte, len(say))
				if _, err := io.ReadFull(far, got); err != nil || string(got) != say {
					t.Fatalf("far got %q, %v", got, err)
				}
				if _, err := far.Write(got); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(near, got); err != nil || string(got) != say {
					t.Fatalf("near got %q, %v", got, err)
				}
			}
		})
	}
}

// A side that has said everything still hears the whole answer.
func TestHalfClose(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			_, near, far := connect(t, family.src, family.dst)
			question, answer := pattern(1, 3<<20), pattern(2, 3<<20)
			served := make(chan error, 1)
			go func() {
				got, err := io.ReadAll(far)
				if err == nil && !bytes.Equal(got, question) {
					err = fmt.Errorf("question of %d bytes differs", len(got))
				}
				if err == nil {
					_, err = far.Write(answer)
				}
				served <- errors.Join(err, far.CloseWrite())
			}()
			if _, err := near.Write(question); err != nil {
				t.Fatal(err)
			}
			if err := near.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := near.Write([]byte("x")); !errors.Is(err, ErrClosed) {
				t.Errorf("write after CloseWrite: %v", err)
			}
			got, err := io.ReadAll(near)
			if err != nil || !bytes.Equal(got, answer) {
				t.Fatalf("answer of %d bytes, %v", len(got), err)
			}
			if err := receive(t, served); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestReset(t *testing.T) {
	for _, family := range families {
		for _, nearResets := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s near=%v", family.name, nearResets), func(t *testing.T) {
				_, resetting, other := connect(t, family.src, family.dst)
				if !nearResets {
					resetting, other = other, resetting
				}
				own, reading := make(chan error, 1), make(chan error, 1)
				go func() { _, err := resetting.Read(make([]byte, 1)); own <- err }()
				go func() { _, err := other.Read(make([]byte, 1)); reading <- err }()
				resetting.Abort()
				if err := receive(t, own); !errors.Is(err, ErrClosed) {
					t.Errorf("own read: %v", err)
				}
				if err := receive(t, reading); !errors.Is(err, ErrReset) {
					t.Errorf("other's read: %v", err)
				}
				if _, err := other.Write([]byte("x")); !errors.Is(err, ErrReset) {
					t.Errorf("other's write: %v", err)
				}
				if _, err := resetting.Write([]byte("x")); !errors.Is(err, ErrClosed) {
					t.Errorf("own write: %v", err)
				}
				resetting.Abort()
				resetting.Close()
			})
		}
	}
}

// A writer that waits for a reader who never reads is woken by Abort on either
// side.
func TestAbortWakesWriter(t *testing.T) {
	for _, ownAbort := range []bool{true, false} {
		_, near, far := connect(t, families[0].src, families[0].dst)
		written := make(chan error, 1)
		go func() { _, err := near.Write(make([]byte, 64<<20)); written <- err }()
		// Something must have arrived, then both ends abort.
		if _, err := far.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		want := ErrReset
		if ownAbort {
			near.Abort()
			want = ErrClosed
		} else {
			far.Abort()
		}
		if err := receive(t, written); !errors.Is(err, want) {
			t.Errorf("own=%v: %v", ownAbort, err)
		}
	}
}

func TestCloseWakesReader(t *testing.T) {
	_, near, far := connect(t, families[1].src, families[1].dst)
	read := make(chan error, 1)
	go func() { _, err := near.Read(make([]byte, 1)); read <- err }()
	near.Close()
	if err := receive(t, read); !errors.Is(err, ErrClosed) {
		t.Errorf("own read: %v", err)
	}
	if n, err := far.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("far read: %d, %v", n, err)
	}
}

// Slow readers stop the writer: what is under way is bounded by the buffers of
// both sides.
func TestBackPressure(t *testing.T) {
	_, near, far := connect(t, families[0].src, families[0].dst)
	const total = 64 << 20
	data := pattern(3, 16<<10)
	written := make(chan int, total/len(data))
	go func() {
		defer close(written)
		for n := 0; n < total; n += len(data) {
			if _, err := near.Write(data); err != nil {
				return
			}
			written <- len(data)
		}
	}()
	sum := 0
	for idle := false; !idle; {
		select {
		case n := <-written:
			sum += n
		case <-time.After(500 * time.Millisecond):
			idle = true
		}
	}
	if sum > 1<<20 {
		t.Errorf("%d bytes taken without a reader", sum)
	}
	far.Abort()
	for range written {
	}
}

func TestManyFlows(t *testing.T) {
	const flows, size = 200, 256 << 10
	p := join(t, func(req *Pending) {
		f, err := req.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer f.Close()
		f.SetReceiveBuffer(LargeBuffer) // for segments of 64 KiB, as a kernel sends them to large windows only
		buf := make([]byte, 256<<10)
		for {
			n, err := f.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Errorf("far read: %v", err)
				return
			}
			if _, err := f.Write(buf[:n]); err != nil {
				t.Errorf("far write: %v", err)
				return
			}
		}
		_ = f.CloseWrite()
	})
	data := pattern(4, size+flows)
	var group sync.WaitGroup
	for i := range flows {
		group.Go(func() {
			family := families[i%2]
			src := netip.AddrPortFrom(family.src.Addr(), uint16(30000+i))
			f, err := p.a.Dial(within(t, time.Minute), src, family.dst)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			f.SetReceiveBuffer(LargeBuffer)
			if f.LocalAddr() != src {
				t.Errorf("port %d became %d", src.Port(), f.LocalAddr().Port())
			}
			sent := data[i:][:size]
			group.Go(func() {
				if _, err := f.Write(sent); err != nil {
					t.Errorf("near write: %v", err)
				}
				_ = f.CloseWrite()
			})
			got, err := io.ReadAll(f)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("flow %d: %d bytes back, %v", i, len(got), err)
			}
		})
	}
	group.Wait()
	if c := p.a.Counters(); c.Dialled != flows || c.WriteErrors+c.Filtered+c.BadChecksum > 0 {
		t.Errorf("near: %+v", c)
	}
	if c := p.b.Counters(); c.Accepted != flows || c.Filtered+c.BadChecksum > 0 {
		t.Errorf("far: %+v", c)
	}
}

// Both directions of one flow may be used at once, by several goroutines each.
func TestConcurrentUse(t *testing.T) {
	_, near, far := connect(t, families[1].src, families[1].dst)
	const each, writers = 1 << 20, 4
	var group sync.WaitGroup
	for _, f := range []*Flow{near, far} {
		var sending sync.WaitGroup
		for i := range writers {
			sending.Go(func() {
				for range each / 4096 {
					if _, err := f.Write(bytes.Repeat([]byte{byte(i)}, 4096)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		group.Go(func() { sending.Wait(); _ = f.CloseWrite() })
		var mu sync.Mutex
		total := 0
		var receiving sync.WaitGroup
		for range 2 {
			receiving.Go(func() {
				n, err := io.Copy(io.Discard, f)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				total += int(n)
			})
		}
		group.Go(func() {
			receiving.Wait()
			if total != each*writers {
				t.Errorf("%d bytes arrived", total)
			}
		})
	}
	group.Wait()
}

// Drain waits for a slow reader, so that an Abort behind it takes nothing away, and
// for one that reads nothing as long as it was told.
func TestDrain(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			_, near, far := connect(t, family.src, family.dst)
			answer := pattern(3, 300<<10)
			read := make(chan error, 1)
			go func() {
				var got []byte
				for buf := make([]byte, 5000); ; {
					n, err := far.Read(buf)
					got = append(got, buf[:n]...)
					if err != nil {
						if !errors.Is(err, ErrReset) || !bytes.Equal(got, answer) {
							err = fmt.Errorf("%d bytes of %d, then %w", len(got), len(answer), err)
						} else {
							err = nil
						}
						read <- err
						return
					}
					time.Sleep(2 * time.Millisecond) // a slow reader
				}
			}()
			if _, err := near.Write(answer); err != nil {
				t.Fatal(err)
			}
			near.Drain(time.Minute)
			near.Abort()
			if err := receive(t, read); err != nil {
				t.Error(err)
			}

			_, near, far = connect(t, family.src, family.dst)
			var written sync.WaitGroup
			written.Go(func() { near.Write(make([]byte, 20<<20)) }) // more than all buffers hold
			const patience = 100 * time.Millisecond
			for before := 0; before == 0 || near.unacknowledged() != before; { // until the reader's window is closed
				time.Sleep(patience)
				before = near.unacknowledged()
				time.Sleep(patience)
			}
			began := time.Now()
			near.Drain(patience)
			if took := time.Since(began); took < patience || near.unacknowledged() == 0 {
				t.Errorf("gave up after %v, with %d bytes waiting", took, near.unacknowledged())
			}
			drained := make(chan struct{})
			go func() {
				near.Drain(time.Hour)
				close(drained)
			}()
			near.Abort() // ends a Drain that waits
			receive(t, drained)
			written.Wait()
			far.Abort()
		})
	}
}

// After Hurry a Write waits for a reader that takes something now and then, and gives up on
// one that takes nothing.
func TestHurry(t *testing.T) {
	const patience = 200 * time.Millisecond
	_, near, far := connect(t, families[0].src, families[0].dst)
	defer far.Abort()
	wrote := make(chan error, 1)
	write := func(bytes int) { _, err := near.Write(make([]byte, bytes)); wrote <- err }
	const much = 4 << 20 // more than all buffers hold
	go write(much)
	near.Hurry(patience)
	near.Hurry(time.Nanosecond) // does not count
	for total, began := 0, time.Now(); total < much; {
		n, err := far.Read(make([]byte, much/16))
		if err != nil {
			t.Fatalf("after %d bytes: %v", total, err)
		}
		if total += n; time.Since(began) < 4*patience {
			time.Sleep(patience / 4) // a slow reader
		}
	}
	if err := receive(t, wrote); err != nil {
		t.Errorf("with a slow reader: %v", err)
	}
	began := time.Now()
	go write(much)
	if err := receive(t, wrote); !errors.Is(err, ErrTimeout) || time.Since(began) < patience {
		t.Errorf("with nobody reading: %v after %v", err, time.Since(began))
	}
}
