package m2n

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// hostLoad samples how many threads of the host want a core. To read that from
// /proc/loadavg takes a few microseconds.
type hostLoad struct {
	file    *os.File // /proc/loadavg; nil where there is none
	sampled time.Duration
	last    int
}

// sampleFor is how long a sample is used.
const sampleFor = time.Millisecond

func newHostLoad() *hostLoad {
	f, err := os.Open("/proc/loadavg")
	if err != nil {
		return &hostLoad{}
	}
	return &hostLoad{file: f, sampled: -sampleFor}
}

func (h *hostLoad) runnable() int {
	if t := now(); h.file != nil && t-h.sampled >= sampleFor {
		h.sampled, h.last = t, h.read()
	}
	return h.last
}

// read returns the first number of the fourth field, 1 in "0.20 0.18 0.12 1/80 11206".
func (h *hostLoad) read() int {
	var b [128]byte
	n, _ := h.file.ReadAt(b[:], 0) // the error is io.EOF; without any bytes there are no fields
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
		_ = h.file.Close() // nothing was written
	}
}
