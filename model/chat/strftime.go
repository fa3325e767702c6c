package chat

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// directives are strftime's, in the C locale.
var directives = map[byte]func(t time.Time) string{
	'a': layout("Mon"),
	'A': layout("Monday"),
	'b': layout("Jan"),
	'B': layout("January"),
	'c': layout("Mon Jan _2 15:04:05 2006"),
	'd': layout("02"),
	'D': layout("01/02/06"),
	'e': layout("_2"),
	'f': func(t time.Time) string { return fmt.Sprintf("%06d", t.Nanosecond()/1000) },
	'F': layout("2006-01-02"),
	'h': layout("Jan"),
	'H': layout("15"),
	'I': layout("03"),
	'j': layout("002"),
	'm': layout("01"),
	'M': layout("04"),
	'n': func(time.Time) string { return "\n" },
	'p': layout("PM"),
	'R': layout("15:04"),
	'S': layout("05"),
	't': func(time.Time) string { return "\t" },
	'T': layout("15:04:05"),
	'u': func(t time.Time) string { return strconv.Itoa((int(t.Weekday())+6)%7 + 1) },
	'w': func(t time.Time) string { return strconv.Itoa(int(t.Weekday())) },
	'x': layout("01/02/06"),
	'X': layout("15:04:05"),
	'y': layout("06"),
	'Y': layout("2006"),
	'z': func(time.Time) string { return "" }, // Python's time has no zone here
	'Z': func(time.Time) string { return "" },
	'%': func(time.Time) string { return "%" },
}

func layout(l string) func(time.Time) string {
	return func(t time.Time) string { return t.Format(l) }
}

// strftime formats a time as Python does. A minus, as in %-d, takes zeros and
// spaces off the front.
func strftime(t time.Time, format string) (string, error) {
	var out strings.Builder
	for format != "" {
		i := strings.IndexByte(format, '%')
		if i < 0 || i == len(format)-1 {
			out.WriteString(format)
			break
		}
		out.WriteString(format[:i])
		format = format[i+1:]
		bare := format[0] == '-' && len(format) > 1
		if bare {
			format = format[1:]
		}
		directive, ok := directives[format[0]]
		if !ok {
			return "", fmt.Errorf("strftime_now: the directive %%%c is not supported", format[0])
		}
		text := directive(t)
		if short := strings.TrimLeft(text, "0 "); bare && short != "" {
			text = short
		} else if bare {
			text = "0"
		}
		out.WriteString(text)
		format = format[1:]
	}
	return out.String(), nil
}
