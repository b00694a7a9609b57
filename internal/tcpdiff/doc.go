// Package tcpdiff tests that programs cannot tell a TCP connection through the tunnel
// from one over a cable: short scripts of socket calls at both ends run once over the
// cable between two hosts and once through the tunnel between the same two, and each
// call has to return the same. It holds no code of the product.
//
// Scripts are made from a seed. One that shows a difference is made as short as it
// goes; those that once did are kept in testdata.
//
// Only time may differ. After each call a script waits until its effects have arrived:
// over the cable a few milliseconds, through the tunnel longer. Who did not wait long
// enough sees a difference that is none, so a difference counts when it is still there
// with waits of half a second.
//
//	-scripts N    how many scripts each path runs
//	-seed N       of the first one; the others follow it
//	-script FILE  run this one alone, as often, and print what each call returned
package tcpdiff
