package shape

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kernelAlarm is a timer of the kernel (timerfd) that Go's poller waits for. Go's own
// timers wait in whole milliseconds while the process is idle.
type kernelAlarm struct {
	file *os.File
	raw  syscall.RawConn
}

func newAlarm(bubble bool) (alarm, error) {
	if bubble {
		return newTimerAlarm(), nil
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	a := &kernelAlarm{file: os.NewFile(uintptr(fd), "timerfd")}
	a.raw, err = a.file.SyscallConn()
	return a, err
}

func (a *kernelAlarm) set(d time.Duration) {
	// A time of 0 would stop the timer.
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))}
	err := a.raw.Control(func(fd uintptr) {
		if err := unix.TimerfdSettime(int(fd), 0, &spec, nil); err != nil {
			panic(os.NewSyscallError("timerfd_settime", err)) // the arguments are right
		}
	})
	_ = err // the alarm is closed
}

func (a *kernelAlarm) wait() bool {
	var rings [8]byte
	_, err := a.file.Read(rings[:])
	return err == nil
}

func (a *kernelAlarm) close() error { return a.file.Close() }
