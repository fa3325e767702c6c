//go:build !linux

package shape

func newAlarm(bool) (alarm, error) { return newTimerAlarm(), nil }
