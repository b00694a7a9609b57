//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// row is what all rounds of one contender gave.
type row struct {
	Name    string               `json:"name"`
	Medians map[string]float64   `json:"medians"`
	Rounds  map[string][]float64 `json:"rounds"`
}

// collect makes the rows.
func collect(names []string, rounds map[string][]figures) []row {
	var rows []row
	for _, name := range names {
		r := row{Name: name, Medians: map[string]float64{}, Rounds: map[string][]float64{}}
		for _, col := range columns {
			for _, f := range rounds[name] {
				if v, ok := f[col.name]; ok {
					r.Rounds[col.name] = append(r.Rounds[col.name], v)
				}
			}
			if list := r.Rounds[col.name]; len(list) > 0 {
				r.Medians[col.name] = median(list)
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	if n%2 == 1 {
		return list[n/2]
	}
	return (list[n/2-1] + list[n/2]) / 2
}

// writeTable writes Markdown: medians, in brackets the ratio to the base.
func writeTable(w io.Writer, rows []row, base string) {
	i := slices.IndexFunc(rows, func(r row) bool { return r.Name == base })
	head := []string{"measure"}
	for _, r := range rows {
		head = append(head, r.Name)
	}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, col := range columns {
		if !slices.ContainsFunc(rows, func(r row) bool { return len(r.Rounds[col.name]) > 0 }) {
			continue
		}
		cells := []string{col.name + ", " + col.unit}
		for _, r := range rows {
			v, ok := r.Medians[col.name]
			switch {
			case !ok:
				cells = append(cells, "–")
			case col.alone || i < 0 || r.Name == base || rows[i].Medians[col.name] == 0:
				cells = append(cells, number(v))
			default:
				cells = append(cells, fmt.Sprintf("%s (%.2f)", number(v), v/rows[i].Medians[col.name]))
			}
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
}

// number shows three digits or so.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
