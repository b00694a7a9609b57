package fec

import "github.com/klauspost/reedsolomon"

// The code is that of Cauchy: parity packet i is the sum over all data packets j of the block of
// j / (i + 16 + j) in GF(256), where + is exclusive or. Each square part of such a matrix can be
// inverted, so as many data packets can be computed as there are parity packets, whichever they
// are; and what a block has less of packets, or of parity, changes nothing of the rest.

// gf multiplies slices in GF(256).
var gf reedsolomon.LowLevel

// factor is what data packet j of a block is multiplied by in its parity packet i.
func factor(i, j int) byte { return reedsolomon.Inv(byte(i ^ (MaxParity + j))) }

// add adds a data packet to the parity packet of a block, which is as long or longer.
func add(parity, packet []byte, i, j int) { gf.GalMulSliceXor(factor(i, j), packet, parity) }

// solve computes the data packets lost from as many sums of them: rows[n] is parity packet
// index[n] without all data packets but the lost, behind room for len(lost) bytes. Afterwards
// rows[n] is lost[n] behind that room. scratch is as long as a row.
func solve(rows [][]byte, index, lost []int, scratch []byte) {
	for n, row := range rows {
		for l, j := range lost {
			row[l] = factor(index[n], j)
		}
	}
	// Gauss and Jordan; no pivot is ever zero, as what is left of a Cauchy matrix is one.
	for n, row := range rows {
		scratch = scratch[:len(row)]
		gf.GalMulSlice(reedsolomon.Inv(row[n]), row, scratch)
		copy(row, scratch)
		for o, other := range rows {
			if o != n {
				gf.GalMulSliceXor(other[n], row, other)
			}
		}
	}
}
