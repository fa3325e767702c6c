package shape_test

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/tandem-moe/tandem/m2n/shape"
)

// Example sends 10 MB over a link of 100 MB/s.
func Example() {
	n, err := shape.New(shape.Config{Latency: time.Millisecond})
	check(err)
	defer n.Close()
	check(n.Host("a", shape.NIC{Egress: 100e6, Ingress: 100e6}))
	check(n.Host("b", shape.NIC{Egress: 100e6, Ingress: 100e6}))
	l, err := n.Listener("b")
	check(err)
	conn, err := n.Dial("a")(context.Background(), l.Addr().String())
	check(err)

	begin := time.Now()
	go func() {
		_, err := conn.Write(make([]byte, 10e6))
		check(err)
		check(conn.Close())
	}()
	peer, err := l.Accept()
	check(err)
	bytes, err := io.Copy(io.Discard, peer)
	check(err)
	fmt.Println(bytes, "bytes; at least 101 ms:", time.Since(begin) >= 101*time.Millisecond)
	// Output: 10000000 bytes; at least 101 ms: true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
