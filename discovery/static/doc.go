// Package static is the discovery source of addresses that somebody wrote down:
// configuration, tickets, tests.
package static
