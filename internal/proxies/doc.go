// Package proxies finds the proxy by which relays are reached from this host: the one of
// the settings, else those of the environment. Proxies of HTTP (CONNECT) and SOCKS 5 can
// be used.
package proxies
