// Package procstat reads what a process costs, for programs that measure others.
package procstat
