package exchange

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// footprint is about the memory that the hungriest contestant needs: a message
// and its slots for each pair, and processes.
func footprint(s Shape) int64 {
	const process = 20 << 20
	pairs := int64(s.Senders) * int64(s.Receivers)
	return pairs*int64(s.Bytes)*int64(1+meshSlots(s.Bytes)) + int64(s.processes())*process
}

// fits tells whether so many contestants, each of so many bytes, may be there at
// once, and fails where not even one may.
func fits(each int64, contestants int, free int64) (atOnce bool, err error) {
	if each > free/10*8 {
		return false, fmt.Errorf("--size: it takes some %s, and %s of memory are free", memoryText(each), memoryText(free))
	}
	return int64(contestants)*each <= free/2, nil
}

// freeMemory is what the system can give without swapping.
func freeMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("free memory: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("free memory: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, errors.Join(errors.New("free memory: /proc/meminfo does not say"), lines.Err())
}

func memoryText(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/(1<<30)) }
