//go:build !linux

package m2n

// hostLoad is of Linux.
type hostLoad struct{}

func newHostLoad() *hostLoad { return &hostLoad{} }

func (*hostLoad) runnable() int { return 0 }
func (*hostLoad) close()        {}
