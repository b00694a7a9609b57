package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/identity"
)

// printer writes for people.
type printer struct{ w io.Writer }

func (p *printer) linef(format string, args ...any) {
	fmt.Fprintln(p.w, shown(fmt.Sprintf(format, args...)))
}

// shown is text as a terminal may have it (S22). What others said was cleaned where it came
// in: this is a second wall.
func shown(text string) string { return identity.Clean(text, len(text)) }

// table writes rows of cells in columns.
func (p *printer) table(rows [][]string) {
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, shown(cell))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}

// print shows a value as JSON or for people.
func (a *app) print(cmd *cobra.Command, value any, people func(*printer)) error {
	if !a.json {
		people(&printer{cmd.OutOrStdout()})
		return nil
	}
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), escaped(string(b)))
	return err
}

// escaped is JSON without what a terminal would obey: all that is not printable stands in
// strings, where it has another form.
func escaped(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == '\n' || unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// orDash returns what a pointer points to, "-" for none.
func orDash(s *string) string {
	if s == nil || *s == "" {
		return "-"
	}
	return *s
}

// bytes words a number of bytes in binary units.
func bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1<<10 && unit < len(units)-1 {
		value /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// progress tells the steps of a command that takes a while, on the standard error; nil with
// --json.
func (a *app) progress(cmd *cobra.Command) func(string) {
	if a.json {
		return nil
	}
	return func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), shown(step)) }
}
