// Command asmgen writes the assembly for amd64, of package kernel above all. It owns
// the instructions; what they compute is defined by the portable versions in the
// packages that ask for them.
//
// Every floating-point kernel exists for AVX2 and AVX-512 and is vectorised over
// outputs, so that both give the bits of the portable version.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/mmcloughlin/avo/build"
)

// families are the files that can be generated.
var families = map[string]func(){
	"attention": attention,
	"coded":     coded,
	"crc32c":    crc32c,
	"gemm":      gemm,
	"pack":      pack,
	"roofline":  roofline,
	"rows":      rows,
	"vector":    vector,
}

func main() {
	name := flag.String("family", "", "which kernels to write")
	flag.Parse()
	write, ok := families[*name]
	if !ok {
		fmt.Fprintf(os.Stderr, "asmgen: no family %q\n", *name)
		os.Exit(2)
	}
	build.ConstraintExpr("amd64")
	write()
	build.Generate()
}
