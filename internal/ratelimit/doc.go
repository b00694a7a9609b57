// Package ratelimit holds token buckets, and a table of them by the networks that packets
// and requests come from.
package ratelimit
