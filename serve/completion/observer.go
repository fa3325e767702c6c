package completion

// SequenceObserver is told what happens to one sequence. Its methods are called by
// one goroutine at a time.
type SequenceObserver interface {
	// Token says that an output token arrived. For the first one, cached is how many
	// prompt tokens were in a cached prefix.
	Token(cached int)
	// End says why the sequence ended: a serve.FinishReason, EndAbort or EndError.
	// It is called exactly once.
	End(reason string)
}

// Reasons for a sequence's end beside serve.FinishReason.
const (
	// EndAbort: the caller closed the run or canceled its context.
	EndAbort = "abort"
	// EndError: the sequence ended with another error.
	EndError = "error"
)

type ignorant struct{}

func (ignorant) Token(int)  {}
func (ignorant) End(string) {}
