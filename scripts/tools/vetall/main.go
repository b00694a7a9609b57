// Command vetall finds what go vet finds, test files included, but reads the sources
// of all dependencies instead of having them compiled: for systems that nothing else
// is built for (GOOS), that takes an eighth of the time.
package main

import (
	"golang.org/x/tools/go/analysis/multichecker"
	"golang.org/x/tools/go/analysis/suite/vet"
)

func main() { multichecker.Main(vet.Suite...) }
