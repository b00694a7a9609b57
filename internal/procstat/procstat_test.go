package procstat

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestOwn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	before, err := Memory(os.Getpid())
	if err != nil || before < 1<<20 {
		t.Fatalf("%d bytes, %v", before, err)
	}
	big := make([]byte, 64<<20)
	for i := range big {
		big[i] = 1
	}
	after, err := Memory(os.Getpid())
	if err != nil || after-before < 32<<20 {
		t.Errorf("%d bytes more, %v", after-before, err)
	}
	runtime.KeepAlive(big)
	spent, err := Spent(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < time.Minute; {
		now, err := Spent(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > spent {
			return
		}
	}
	t.Error("a minute of work took no time")
}

func TestNobody(t *testing.T) {
	if _, err := Memory(-1); err == nil {
		t.Error("memory of nobody")
	}
	if _, err := Spent(-1); err == nil {
		t.Error("time of nobody")
	}
}
