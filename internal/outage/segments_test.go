package outage

import (
	"net/netip"
	"testing"
)

// The last segment of a flow is kept from Watch to Forget.
func TestSegments(t *testing.T) {
	var s Segments
	here := Ends{netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:22")}
	other := Ends{here.Src, netip.MustParseAddrPort("[fd00::2]:80")}
	s.Note(here, []byte("before"))
	if got := s.Forget(here); got != nil || !s.None() {
		t.Errorf("kept %q of a flow that nobody watches", got)
	}
	s.Watch(here)
	s.Watch(here)
	if s.None() {
		t.Error("no flow stands still")
	}
	s.Note(here, []byte("first"))
	last := []byte("last")
	s.Note(here, last)
	last[0] = 'x' // the caller's again
	s.Note(other, []byte("another flow"))
	s.Note(here, make([]byte, maxQuoted+1))
	if got := s.Forget(here); string(got) != "last" {
		t.Errorf("kept %q", got)
	}
	if !s.None() || len(s.last) != 0 {
		t.Errorf("%d flows are kept", len(s.last))
	}
}
