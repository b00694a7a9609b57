//go:build !unix

package dnsmap

import (
	"io/fs"
	"os"
)

func keepOwner(*os.File, fs.FileInfo) {}
