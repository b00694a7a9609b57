//go:build !unix

package dnsmap

import "io/fs"

func keepOwner(string, fs.FileInfo) {}
