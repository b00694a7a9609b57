// Package webservertest holds certificate authorities for tests of servers.
//
// It is for tests only.
package webservertest
