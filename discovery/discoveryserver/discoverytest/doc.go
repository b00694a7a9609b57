// Package discoverytest starts discovery servers within a test.
//
// It is for tests only.
package discoverytest
