package completion

// SequenceObserver hears of one sequence's life, on one goroutine at a time.
type SequenceObserver interface {
	// Token says that an output token arrived. cached, at the first one, is how
	// many prompt tokens a cached prefix saved.
	Token(cached int)
	// End says why the sequence ended: a serve.FinishReason, EndAbort or
	// EndError. It comes exactly once.
	End(reason string)
}

// Reasons beside the engine's.
const (
	// EndAbort: the caller went away.
	EndAbort = "abort"
	// EndError: the engine failed.
	EndError = "error"
)

type ignorant struct{}

func (ignorant) Token(int)  {}
func (ignorant) End(string) {}
