package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"

	"github.com/tandem-moe/tandem/bench/exchange"
)

// TestRowsArrive: each receiver holds what each sender sent to it, in order.
func TestRowsArrive(t *testing.T) {
	s := exchange.Shape{Senders: 2, Receivers: 3, Bytes: 4096, Messages: 4} // fits into what a stream sends ahead
	for name, plan := range plans() {
		t.Run(name, func(t *testing.T) {
			receivers, addrs := listening(t, plan, s)
			for self := range s.Senders {
				sender, err := plan.Connect(t.Context(), self, s, addrs)
				require.NoError(t, err)
				defer sender.Close()
				for r, row := range sender.Rows() {
					require.Len(t, row, s.Bytes)
					binary.LittleEndian.PutUint64(row[s.Bytes-8:], uint64(100*self+r))
				}
				require.NoError(t, sender.Send(t.Context(), s.Messages))
			}
			for r, receiver := range receivers {
				counts := make([]int, s.Senders)
				require.NoError(t, receiver.Receive(t.Context(), s.Messages, func(sender int, row []byte) error {
					counts[sender]++ // a goroutine for each sender
					if got := binary.LittleEndian.Uint64(row[s.Bytes-8:]); got != uint64(100*sender+r) {
						return fmt.Errorf("receiver %d, sender %d: %d", r, sender, got)
					}
					return nil
				}))
				require.Equal(t, []int{s.Messages, s.Messages}, counts)
				receiver.Release()
			}
		})
	}
}

// listening are receivers, closed with the test, and their addresses.
func listening(t *testing.T, plan exchange.Plan, s exchange.Shape) (receivers []exchange.Receiver, addrs []string) {
	t.Helper()
	for self := range s.Receivers {
		r, addr, err := plan.Listen(t.Context(), self, s)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, r.Close()) })
		receivers, addrs = append(receivers, r), append(addrs, addr)
	}
	return receivers, addrs
}

// TestReceiverStopsAtAnError: a row that is not as it should be ends receiving.
func TestReceiverStopsAtAnError(t *testing.T) {
	s := exchange.Shape{Senders: 1, Receivers: 1, Bytes: 64, Messages: 1}
	receivers, addrs := listening(t, plans()["grpc"], s)
	sender, err := plans()["grpc"].Connect(t.Context(), 0, s, addrs)
	require.NoError(t, err)
	defer sender.Close()
	require.NoError(t, sender.Send(t.Context(), 1))
	bad := errors.New("bad row")
	require.ErrorIs(t, receivers[0].Receive(t.Context(), 1, func(int, []byte) error { return bad }), bad)
}

// TestStrangerIsRefused: a stream of a sender that the shape does not have.
func TestStrangerIsRefused(t *testing.T) {
	s := exchange.Shape{Senders: 1, Receivers: 1, Bytes: 64, Messages: 1}
	_, addrs := listening(t, plans()["grpc"], s)
	sender, err := plans()["grpc"].Connect(t.Context(), 1, s, addrs)
	require.NoError(t, err)
	defer sender.Close()
	require.Eventually(t, func() bool { return sender.Send(t.Context(), 1) != nil }, 5*time.Second, time.Millisecond)
}

// TestRowCodec keeps the length.
func TestRowCodec(t *testing.T) {
	data, err := rowCodec{}.Marshal([]byte("abcdefgh"))
	require.NoError(t, err)
	row := make([]byte, 8)
	require.NoError(t, rowCodec{}.Unmarshal(data, row))
	require.Equal(t, "abcdefgh", string(row))
	for _, n := range []int{7, 9} {
		require.ErrorContains(t, rowCodec{}.Unmarshal(mem.BufferSlice(data), make([]byte, n)), fmt.Sprintf("message of 8 bytes, want %d", n))
	}
}

// TestArgumentsThatAreRefused are named.
func TestArgumentsThatAreRefused(t *testing.T) {
	require.ErrorContains(t, run([]string{"page"}), "1 arguments, want PAGE TRANSPORT RANK")
	require.ErrorContains(t, run([]string{"page", "grpc", "x"}), `rank "x"`)
	require.ErrorContains(t, run([]string{"page", "raw", "0"}), `no transport "raw": this program has grpc, grpc-tuned`)
}
