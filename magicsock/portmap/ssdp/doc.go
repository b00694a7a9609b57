// Package ssdp is the codec of the Simple Service Discovery Protocol, as the UPnP
// Device Architecture 2.0 has it in section 1, as far as finding one router
// needs it. It sends nothing and keeps no state.
//
// A packet is the head of an HTTP message without a body. Three kinds are read:
// the search of a host ("M-SEARCH * HTTP/1.1"), the response to it
// ("HTTP/1.1 200 OK") and the notice that a device sends to the group by itself
// ("NOTIFY * HTTP/1.1"). Of the header lines those named in Message count, in
// any case and order; of repeated ones the first.
//
// Its functions may be called concurrently.
package ssdp
