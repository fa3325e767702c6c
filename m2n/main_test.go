package m2n

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs more tests at once than there are cores, unless -parallel is given: the
// parallel ones mostly wait for timeouts.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "5"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	goleak.VerifyTestMain(m)
}
