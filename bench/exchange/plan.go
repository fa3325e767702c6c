package exchange

import "context"

// Sender is one end's way to send its rows. One goroutine uses it.
type Sender interface {
	// Rows are the bodies of its messages, one for each receiver, of Shape.Bytes
	// bytes each. The caller writes them between calls of Send.
	Rows() [][]byte
	// Send sends each row so many times, and returns when the transport no longer
	// needs the caller for it: rows may change when all receivers have them.
	Send(ctx context.Context, times int) error
	Close() error
}

// Receiver is one end's way to receive rows. One goroutine uses it.
type Receiver interface {
	// Receive returns when so many rows of every sender are there. got sees each
	// as it arrives; those of different senders may come at once.
	Receive(ctx context.Context, times int, got func(sender int, row []byte) error) error
	// Release gives back what the last rows of an iteration occupy.
	Release()
	Close() error
}

// Plan is how a transport makes its ends, each in a process of its own.
type Plan struct {
	// Listen makes the end of receiver number self, and says where senders reach
	// it, in at most 255 bytes.
	Listen func(ctx context.Context, self int, s Shape) (r Receiver, addr string, err error)
	// Connect makes the end of sender number self. addrs are what the receivers'
	// Listen said, in their order.
	Connect func(ctx context.Context, self int, s Shape, addrs []string) (Sender, error)
}
