package schedule

import (
	"fmt"
	"testing"

	"github.com/tandem-moe/tandem/internal/docs"
)

// TestPageLetters holds docs/schedule.md to the tables of letters.
func TestPageLetters(t *testing.T) {
	var rows [][]string
	for _, table := range []struct {
		kind    string
		letters []Letter
	}{{"part", Parts()}, {"direction", Directions()}} {
		for _, l := range table.letters {
			rows = append(rows, []string{fmt.Sprintf("`%c`", l.Byte), table.kind, l.Name, "`" + l.Category + "`"})
		}
	}
	docs.Hold(t, "..", "schedule.md", "letters", docs.Table([]string{"letter", "of", "meaning", "trace category"},
		rows))
}
