package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// S22: whatever text reaches the printer, the terminal obeys none of it.
func TestNothingReachesTheTerminalRaw(t *testing.T) {
	const evil = "\x1b]52;c;ZXZpbA==\x07\u009b2J\u202egnp.exe\r\x00"
	var out strings.Builder
	p := &printer{&out}
	p.linef("a relay says %s", evil)
	p.table([][]string{{"NAME", "SAYS"}, {evil, evil}})
	out.WriteString(shown(evil))
	j, err := json.Marshal(map[string]string{"text": evil})
	if err != nil {
		t.Fatal(err)
	}
	text := escaped(string(j))
	if i := strings.IndexFunc(out.String()+text, func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e) }); i >= 0 {
		t.Errorf("a character is raw:\n%q\n%q", out.String(), text)
	}
	var back map[string]string
	if err := json.Unmarshal([]byte(text), &back); err != nil || back["text"] != evil {
		t.Errorf("JSON changed: %q, %v", back["text"], err)
	}
	if got := escaped("ü \U000e0001"); got != `ü \udb40\udc01` {
		t.Errorf("escaped: %q", got)
	}
}
