// Package webserver holds what the servers of this module share: certificates, from files or
// by ACME, and who a client is behind proxies.
package webserver
