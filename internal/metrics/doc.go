// Package metrics serves figures to Prometheus, and profiles (pprof), on an address
// of their own.
//
//	GET /metrics         text format of Prometheus
//	GET /debug/pprof/... profiles of net/http/pprof, if they are asked for
package metrics
