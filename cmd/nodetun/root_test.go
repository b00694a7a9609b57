package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Help names what a flag takes in the words of a user, not by a type of Go, and nothing behind one
// that takes nothing.
func TestHelpNamesWhatFlagsTake(t *testing.T) {
	n := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			n++
			name, _ := pflag.UnquoteUsage(f)
			if takes := f.Value.Type() != "bool"; takes == (name == "") || takes && slices.Contains([]string{"string", "strings", f.Value.Type()}, name) {
				t.Errorf("%s --%s %s", cmd.CommandPath(), f.Name, name)
			}
		})
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	root := newRoot(&app{})
	root.PersistentFlags().VisitAll(root.Flags().AddFlag)
	walk(root)
	if n < 50 {
		t.Errorf("%d flags", n)
	}
}
