package sample

// Counter counts how often each token occurs in a sequence: all that a draw needs of
// the tokens before. It depends on prompt and output alone, so that a resumed
// sequence continues as if it had never stopped. The zero value is an empty sequence.
type Counter struct {
	at      map[int32]int // token → index in entries
	entries []count
	outputs int // length of the output
}

// count is a token that occurs in the sequence.
type count struct {
	token  int32
	output int // how often it is in the output; 0 for a token that only the prompt has
}

// Reset makes the counter that of a prompt and the output so far.
func (c *Counter) Reset(prompt, output []int32) {
	clear(c.at)
	c.entries, c.outputs = c.entries[:0], 0
	for _, t := range prompt {
		c.entry(t)
	}
	for _, t := range output {
		c.Add(t)
	}
}

// Add appends a token to the output.
func (c *Counter) Add(token int32) {
	c.entry(token).output++
	c.outputs++
}

// Outputs is the length of the output, and so the position of its next token.
func (c *Counter) Outputs() int { return c.outputs }

func (c *Counter) entry(token int32) *count {
	i, ok := c.at[token]
	if !ok {
		if c.at == nil {
			c.at = make(map[int32]int)
		}
		i = len(c.entries)
		c.at[token] = i
		c.entries = append(c.entries, count{token: token})
	}
	return &c.entries[i]
}
