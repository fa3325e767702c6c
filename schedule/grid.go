package schedule

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// windowRows and windowColumns bound the piece of the grid that an error shows,
// on each side of the marked cell.
const (
	windowRows    = 3
	windowColumns = 4
)

// MaxCells bounds the cells of a grid that is printed whole.
const MaxCells = 1 << 22

// WriteGrid writes the lists side by side: a row for each index, a column for
// each rank.
func (s *Schedule) WriteGrid(w io.Writer) error {
	rows := s.longest()
	if cells := int64(rows) * int64(len(s.Ranks)); cells > MaxCells {
		return fmt.Errorf("schedule %s: a grid of %d rows and %d ranks has %d cells, at most %d", s.Name, rows,
			len(s.Ranks), cells, MaxCells)
	}
	if _, err := io.WriteString(w, s.grid(box{0, rows, 0, len(s.Ranks)}, nil)); err != nil {
		return fmt.Errorf("writing the grid of %s: %w", s.Name, err)
	}
	return nil
}

func (s *Schedule) longest() int {
	n := 0
	for _, r := range s.Ranks {
		n = max(n, len(r.Actions))
	}
	return n
}

// window prints the grid around the first marked cell, with all marked cells in
// brackets.
func (s *Schedule) window(marked []Cell) string {
	c := marked[0]
	b := box{c.Index, c.Index + 1, c.Rank - windowColumns, c.Rank + windowColumns + 1}
	for _, m := range marked {
		if m.Rank >= b.left && m.Rank < b.right {
			b.top, b.bottom = min(b.top, m.Index), max(b.bottom, m.Index+1)
		}
	}
	b.bottom = min(b.bottom, b.top+8*windowRows)
	b.bottom = max(b.bottom, min(b.bottom+windowRows, s.longest()))
	b.top = max(b.top-windowRows, 0)
	b.left, b.right = max(b.left, 0), min(b.right, len(s.Ranks))
	return s.grid(b, marked)
}

// box is a piece of the grid: rows top to bottom, columns left to right, the last
// of both excluded.
type box struct{ top, bottom, left, right int }

func (s *Schedule) grid(b box, marked []Cell) string {
	lines := [][]string{{""}}
	for _, r := range s.Ranks[b.left:b.right] {
		lines[0] = append(lines[0], r.Name)
	}
	for i := b.top; i < b.bottom; i++ {
		line := []string{fmt.Sprint(i)}
		for r := b.left; r < b.right; r++ {
			line = append(line, s.cell(Cell{r, i}, marked))
		}
		lines = append(lines, line)
	}
	return align(lines)
}

func (s *Schedule) cell(c Cell, marked []Cell) string {
	word := ""
	if list := s.Ranks[c.Rank].Actions; c.Index < len(list) {
		word = list[c.Index].String()
	}
	if slices.Contains(marked, c) {
		return "[" + word + "]"
	}
	return " " + word
}

// align makes columns of equal width, without blanks at the end of a line.
func align(lines [][]string) string {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for c, word := range line {
			widths[c] = max(widths[c], len(word))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		text := make([]byte, 0, 2*len(line))
		for c, word := range line {
			text = fmt.Appendf(text, "%-*s ", widths[c], word)
		}
		b.WriteString(strings.TrimRight(string(text), " ") + "\n")
	}
	return b.String()
}
