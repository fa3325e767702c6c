package bench

import "golang.org/x/sys/unix"

// brand is the processor's name, empty where the system does not tell.
func brand() string {
	name, err := unix.Sysctl("machdep.cpu.brand_string")
	if err != nil {
		return ""
	}
	return name
}
