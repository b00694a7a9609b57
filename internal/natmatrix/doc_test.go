//go:build linux

package natmatrix

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// writeTable replaces the lines between the marks of the named table in the
// file of -doc, if there is one.
func writeTable(t *testing.T, name string, lines []string) {
	t.Helper()
	if *doc == "" {
		return
	}
	old, err := os.ReadFile(*doc)
	if err != nil {
		t.Error(err)
		return
	}
	text, err := replaceTable(string(old), name, lines)
	if err != nil {
		t.Error(err)
		return
	}
	if err := os.WriteFile(*doc, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}

func replaceTable(text, name string, lines []string) (string, error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
	head, rest, found := strings.Cut(text, begin)
	_, tail, ended := strings.Cut(rest, end)
	if !found || !ended {
		return "", fmt.Errorf("no %q and %q after it", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return head + begin + "\n" + strings.Join(lines, "\n") + "\n\n" + end + tail, nil
}

func TestReplaceTable(t *testing.T) {
	got, err := replaceTable("x\n<!-- t -->\nold\n<!-- /t -->\ny\n", "t", []string{"| a |", "| b |"})
	if want := "x\n<!-- t -->\n\n| a |\n| b |\n\n<!-- /t -->\ny\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := replaceTable("nothing here", "t", nil); err == nil {
		t.Error("no error without marks")
	}
}
