package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/tandem-moe/tandem/kernel"
)

// Machine is what figures were measured on.
type Machine struct {
	CPU   string `json:"cpu"`
	ISA   string `json:"isa"`
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Arch  string `json:"arch"`
	Go    string `json:"go"`
}

// ThisMachine describes the machine that runs, with an instruction set that was
// chosen.
func ThisMachine(isa kernel.ISA) Machine {
	return Machine{
		CPU: cpuName(), ISA: isa.String(), Cores: runtime.NumCPU(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(),
	}
}

// String is the machine in a line.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %s, %d cores, %s/%s, %s", m.CPU, m.ISA, m.Cores, m.OS, m.Arch, m.Go)
}

// cpuName is what the system calls the processor, and the architecture's name
// where it does not say.
func cpuName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		if name := cpuinfo(string(text)); name != "" {
			return name
		}
	}
	if name := brand(); name != "" {
		return name
	}
	return runtime.GOARCH
}

// cpuinfo finds the first processor's name in the text of /proc/cpuinfo.
func cpuinfo(text string) string {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
