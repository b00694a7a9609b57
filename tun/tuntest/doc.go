// Package tuntest offers a TUN device in memory for tests: a pair of ends, of
// which each reads what the other writes. One end plays the device, the other
// the kernel, or another stack.
//
// It behaves as the real one does: a read gives one whole packet with its
// header, packets keep their order, buffers are not kept, a full queue drops,
// Close ends a Read that waits, and after it both directions report
// tun.ErrClosed. Both ends may be used by any number of goroutines.
package tuntest
