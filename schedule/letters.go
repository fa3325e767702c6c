package schedule

import (
	"fmt"
	"slices"
	"strings"
)

// Part is the part of the model that an action computes.
type Part byte

// Parts. The value of a part is the letter that it prints as.
const (
	// Attention is what attention ranks compute of a layer: attention, the
	// router, and a dense layer's MLP. The embedding belongs to that of layer 0.
	Attention Part = 'A'
	// Experts is the routed experts of a layer.
	Experts Part = 'E'
	// Head is the final norm, the output embedding, and sampling or the loss. It
	// comes after the last layer and has no layer of its own.
	Head Part = 'H'
)

func (p Part) String() string { return spell(parts, byte(p)) }

// Direction is the pass that an action belongs to.
type Direction byte

// Directions. The value of a direction is the letter that it prints as.
const (
	Forward  Direction = 'F'
	Backward Direction = 'B'
	// Weight is the gradient of the weights, where a schedule splits it off
	// Backward.
	Weight Direction = 'W'
)

func (d Direction) String() string { return spell(directions, byte(d)) }

// Letter is one letter of the words that actions print as.
type Letter struct {
	// Byte is the letter itself: 'A'.
	Byte byte
	// Name is the letter's meaning: "attention".
	Name string
	// Category is what a Chrome trace files an action with this letter under:
	// one word.
	Category string
}

// parts and directions are all letters that there are. Printing, parsing,
// traces, the command's help and the documents read these two tables.
var (
	parts = []Letter{
		{byte(Attention), "attention", "attention"},
		{byte(Experts), "experts", "experts"},
		{byte(Head), "head", "head"},
	}
	directions = []Letter{
		{byte(Forward), "forward", "forward"},
		{byte(Backward), "backward", "backward"},
		{byte(Weight), "gradient of the weights", "weight"},
	}
)

// Parts returns the letters of the parts, in the order in which a layer runs.
func Parts() []Letter { return slices.Clone(parts) }

// Directions returns the letters of the directions, in the order in which an
// action's passes run.
func Directions() []Letter { return slices.Clone(directions) }

// find returns a letter's index in a table, or −1.
func find(table []Letter, b byte) int {
	for i := range table { // three entries: a map would be slower
		if table[i].Byte == b {
			return i
		}
	}
	return -1
}

// spell prints b, so that one that is no letter of the table can be told apart
// in an error.
func spell(table []Letter, b byte) string {
	if find(table, b) < 0 {
		return fmt.Sprintf("?%d?", b)
	}
	return string(rune(b))
}

// category is the trace category of a letter of the table.
func category(table []Letter, b byte) string { return table[find(table, b)].Category }

// letters joins the letters of a table: "AEH".
func letters(table []Letter) string {
	var b strings.Builder
	for _, l := range table {
		b.WriteByte(l.Byte)
	}
	return b.String()
}
