package m2n

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// hostLoad samples how many threads want a core: /proc/loadavg says it, and takes
// a few microseconds to do so.
type hostLoad struct {
	file  *os.File // nil where there is none
	asked time.Duration
	last  int
}

// sampleFor is how long a sample is good for.
const sampleFor = time.Millisecond

func newHostLoad() *hostLoad {
	f, err := os.Open("/proc/loadavg")
	if err != nil {
		return &hostLoad{}
	}
	return &hostLoad{file: f, asked: -sampleFor}
}

func (h *hostLoad) runnable() int {
	if t := now(); h.file != nil && t-h.asked >= sampleFor {
		h.asked, h.last = t, h.read()
	}
	return h.last
}

// read returns the fourth field's first number: "0.20 0.18 0.12 1/80 11206".
func (h *hostLoad) read() int {
	var b [128]byte
	n, _ := h.file.ReadAt(b[:], 0) // the end of the file is an error
	fields := bytes.Fields(b[:n])
	if len(fields) < 4 {
		return 0
	}
	running, _, _ := bytes.Cut(fields[3], []byte("/"))
	count, err := strconv.Atoi(string(running))
	if err != nil {
		return 0
	}
	return count
}

func (h *hostLoad) close() {
	if h.file != nil {
		_ = h.file.Close() // it was only read
	}
}
