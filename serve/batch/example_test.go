package batch_test

import (
	"fmt"
	"log"

	"github.com/tandem-moe/tandem/serve/batch"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

// A runtime keeps a step in flight per micro-batch. After each event (a step is
// done, a request came or was cancelled), it asks every micro-batch that has no
// step in flight for one.
func Example() {
	cache, err := kvcache.New(kvcache.Identity{Model: "m", Numerics: "f32", PageTokens: 16}, 64)
	if err != nil {
		log.Fatal(err)
	}
	b, err := batch.New(batch.Config{
		MicroBatches: 2, MaxNumSeqs: 8, MaxBatchedTokens: 32, MaxWaiting: 100, MaxModelLen: 512,
	}, cache)
	if err != nil {
		log.Fatal(err)
	}
	for id := range uint64(3) {
		if err := b.Submit(batch.Request{ID: id, Prompt: make([]int32, 20), MaxTokens: 2}); err != nil {
			log.Fatal(err)
		}
	}
	var flight []*batch.Step
	ask := func() {
		for mb := range 2 {
			if !b.Busy(mb) {
				if step := b.Next(mb); step != nil {
					fmt.Println(step)
					flight = append(flight, step)
				}
			}
		}
	}
	for ask(); len(flight) > 0; ask() {
		step := flight[0] // a runtime computes it here, and draws tokens
		flight = flight[1:]
		for i, outcome := range b.Done(step.MicroBatch, make([]batch.Result, len(step.Seqs))) {
			fmt.Println("seq", step.Seqs[i].ID, outcome)
		}
	}
	// Output:
	// step 1 of micro-batch 0, rows 32
	//   seq 0: positions 0–19, pages [0 1], sample output 0
	//   seq 2: positions 0–11, pages [4 5]
	// step 2 of micro-batch 1, rows 20
	//   seq 1: positions 0–19, pages [2 3], sample output 0
	// seq 0 running
	// seq 2 running
	// step 3 of micro-batch 0, rows 9
	//   seq 0: positions 20–20, pages [0 1], sample output 1
	//   seq 2: positions 12–19, pages [4 5], sample output 0
	// seq 1 running
	// step 4 of micro-batch 1, rows 1
	//   seq 1: positions 20–20, pages [2 3], sample output 1
	// seq 0 length
	// seq 2 running
	// step 5 of micro-batch 0, rows 1
	//   seq 2: positions 20–20, pages [4 5], sample output 1
	// seq 1 length
	// seq 2 length
}
