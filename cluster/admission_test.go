package cluster

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// framed returns a message with its header.
func framed(flags byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(body))), body...)
}

// post sends bytes to a front end and returns its answer.
func post(t *testing.T, url, kind string, body []byte) string {
	t.Helper()
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/tandem.v1.Membership/Join", bytes.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", kind)
	answer, err := client.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return fmt.Sprintf("%d %q", answer.StatusCode, text)
}

// TestStrangersMessagesAreSmall: a process that has not joined cannot make the front
// end unpack, parse or keep more than a hello.
func TestStrangersMessagesAreSmall(t *testing.T) {
	_, url := front(t, time.Second)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(make([]byte, 8<<20))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Less(t, packed.Len(), 64<<10+1024)
	require.Contains(t, post(t, url, contentType, framed(1, packed.Bytes())), "a compressed message")
	require.Contains(t, post(t, url, contentType, framed(0, make([]byte, tandemv1.MaxHello+1))), "the limit is 65536")
	for _, kind := range []string{"application/connect+json", "application/grpc", "application/proto", ""} {
		require.Contains(t, post(t, url, kind, framed(0, []byte("{}"))), "415 ", kind)
	}
}

// TestHelloIsChecked: each hello that no correct node sends is refused with the name of
// the field, and a correct hello after it is accepted.
func TestHelloIsChecked(t *testing.T) {
	server, url := front(t, time.Second)
	good := func() *tandemv1.Hello {
		return helloToProto(Hello{Role: Expert, Addr: "tcp:127.0.0.1:7001", Identity: identity, Place: 0})
	}
	for want, change := range map[string]func(*tandemv1.Hello){
		"Hello.addr is 0":            func(h *tandemv1.Hello) { h.Addr = "" },
		"Hello.addr is 5000":         func(h *tandemv1.Hello) { h.Addr = strings.Repeat("x", 5000) },
		"want TRANSPORT:HOST:PORT":   func(h *tandemv1.Hello) { h.Addr = "garbage" },
		"is no number from 1":        func(h *tandemv1.Hello) { h.Addr = "tcp:host:70000" },
		"is neither an IP address":   func(h *tandemv1.Hello) { h.Addr = "tcp:a\x1bc:1" },
		"cannot be printed":          func(h *tandemv1.Hello) { h.Identity.Version = "\x1b]0;title\a" },
		"Hello.place is -5":          func(h *tandemv1.Hello) { h.Place = proto.Int64(-5) },
		"Identity.layers is -1":      func(h *tandemv1.Hello) { h.Identity.Layers = -1 },
		"differs from the cluster":   func(h *tandemv1.Hello) { h.Identity = nil },
		"router":                     func(h *tandemv1.Hello) { h.Role = "router" },
		"Identity.model is 20000, w": func(h *tandemv1.Hello) { h.Identity.Model = strings.Repeat("x", 20000) },
	} {
		h := good()
		change(h)
		body, err := proto.Marshal(&tandemv1.JoinRequest{Message: &tandemv1.JoinRequest_Hello{Hello: h}})
		require.NoError(t, err)
		answer := post(t, url, contentType, framed(0, body))
		require.Contains(t, answer, want)
		require.NotContains(t, answer, "\x1b")
	}
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	s, err := Join(t.Context(), client, url, Hello{Role: Expert, Addr: "tcp:127.0.0.1:7001", Identity: identity,
		Place: 0}, time.Second)
	require.NoError(t, err)
	s.Close()
	require.Eventually(t, func() bool { return server.Gone(s.Self.ID) == "it has left" }, 5*time.Second,
		time.Millisecond)
}

// preface is the beginning of an HTTP/2 connection, with empty settings.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// TestIdleConnectionsShutNobodyOut: the front end keeps only MaxStrangers silent
// connections; a member stays, and another node can join.
func TestIdleConnectionsShutNobodyOut(t *testing.T) {
	t.Parallel() // most of its time is waiting
	_, url := front(t, time.Second)
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	first, err := Join(t.Context(), client, url, Hello{Role: Attention, Addr: "tcp:127.0.0.1:7001", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.NoError(t, err)
	defer first.Close()
	var idle []net.Conn
	for range 4 * MaxStrangers {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte(preface))
		require.NoError(t, err)
		idle = append(idle, c)
	}
	second := NewHTTPClient(time.Second, nil)
	defer second.CloseIdleConnections()
	e, err := Join(t.Context(), second, url, Hello{Role: Expert, Addr: "tcp:127.0.0.1:7002", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.NoError(t, err)
	defer e.Close()
	until(t, first, func(v View) bool { return len(v.Members) == 2 })
	var open atomic.Int64
	var reading sync.WaitGroup
	for _, c := range idle {
		reading.Go(func() {
			_ = c.SetReadDeadline(time.Now().Add(3 * time.Second)) // a closed connection fails sooner
			if _, err := io.Copy(io.Discard, c); isTimeout(err) {
				open.Add(1)
			}
		})
	}
	reading.Wait()
	require.LessOrEqual(t, open.Load(), int64(MaxStrangers))
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// TestNodeRefusesAWelcome: a node refuses a welcome that no correct front end sends.
func TestNodeRefusesAWelcome(t *testing.T) {
	good := func() *tandemv1.Welcome {
		return &tandemv1.Welcome{
			Self: &tandemv1.Member{Id: "expert-0", Role: "expert"}, Token: "t",
			View: viewToProto(View{Settings: settings}),
		}
	}
	h := Hello{Role: Expert}
	require.NoError(t, checkWelcome(good(), h))
	require.NoError(t, tandemv1.Check(good()))
	for want, change := range map[string]func(*tandemv1.Welcome){
		"no view":                        func(w *tandemv1.Welcome) { w.View = nil },
		`the welcome is for "attention"`: func(w *tandemv1.Welcome) { w.Self.Role = "attention" },
		"no token":                       func(w *tandemv1.Welcome) { w.Token = "" },
		"place 5 of 1":                   func(w *tandemv1.Welcome) { w.Self.Place = 5 },
		`the view has "a" twice`: func(w *tandemv1.Welcome) {
			w.View.Members = []*tandemv1.Member{{Id: "a", Role: "attention"}, {Id: "a", Role: "attention", Place: 1}}
		},
		`at place 0 of 1 after place 0`: func(w *tandemv1.Welcome) {
			w.View.Members = []*tandemv1.Member{{Id: "a", Role: "expert"}, {Id: "b", Role: "expert"}}
		},
		`at place 1 of 1`: func(w *tandemv1.Welcome) {
			w.View.Members = []*tandemv1.Member{{Id: "a", Role: "expert", Place: 1}}
		},
		`for "router"`: func(w *tandemv1.Welcome) { w.View.Members = []*tandemv1.Member{{Id: "a", Role: "router"}} },
	} {
		w := good()
		change(w)
		require.ErrorContains(t, checkWelcome(w, h), want)
	}
}

func TestWhatPeersSayIsQuoted(t *testing.T) {
	err := connect.NewError(connect.CodeAborted, errors.New("a\x1b[2Jb"))
	require.Equal(t, `"aborted: a\x1b[2Jb"`, Quoted(err).Error())
	require.Equal(t, connect.CodeAborted, connect.CodeOf(Quoted(err)))
	plain := errors.New("plain")
	require.Equal(t, plain, Quoted(plain))
	require.NoError(t, Quoted(nil))
}

// FuzzParseAddr: an address that is accepted can be dialled and printed.
func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"tcp:127.0.0.1:1", "shm+tcp:[::1]:7000", "tcp:host.example:65535",
		"tcp:[fe80::1%eth0]:1", "", "tcp:", "tcp:x", "+:a:1", "tcp:a:0", "tcp://a:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ParseAddr(s) != nil {
			return
		}
		_, rest, _ := strings.Cut(s, ":")
		host, _, err := net.SplitHostPort(rest)
		require.NoError(t, err)
		require.NotEmpty(t, host)
		require.True(t, printable(s), "%q", s)
	})
}

// FuzzHello: any bytes as a stranger's first message make a member with a valid role
// and address, or none.
func FuzzHello(f *testing.F) {
	h := helloToProto(Hello{Role: Expert, Addr: "tcp:127.0.0.1:7001", Identity: identity, Place: 0, Wire: "bf16",
		Combine: "partial"})
	bytes, err := proto.Marshal(&tandemv1.JoinRequest{Message: &tandemv1.JoinRequest_Hello{Hello: h}})
	require.NoError(f, err)
	f.Add(bytes)
	f.Add(bytes[:len(bytes)/2])
	f.Fuzz(func(t *testing.T, bytes []byte) {
		m := &tandemv1.JoinRequest{}
		if proto.Unmarshal(bytes, m) != nil || tandemv1.Check(m) != nil || m.GetHello() == nil {
			return
		}
		s := NewServer(identity, settings, time.Second)
		self, err := membership{s}.register(m.GetHello())
		if err != nil {
			require.NotEmpty(t, refusal(err, false).Error())
			require.True(t, printable(Quoted(err).Error()))
			return
		}
		require.NoError(t, ParseAddr(self.Addr))
		require.True(t, printable(self.Addr))
		view, _ := s.View()
		require.NoError(t, checkView(view))
	})
}

// FuzzWelcome: any bytes as the front end's messages give a valid welcome and valid
// views, or errors.
func FuzzWelcome(f *testing.F) {
	view := viewToProto(View{Settings: settings, Members: []Member{{ID: "a", Role: Attention},
		{ID: "e", Role: Expert}}})
	for _, m := range []*tandemv1.JoinResponse{
		{Message: &tandemv1.JoinResponse_Welcome{Welcome: &tandemv1.Welcome{Self: &tandemv1.Member{Id: "e",
			Role: "expert"}, View: view, Token: "t"}}},
		{Message: &tandemv1.JoinResponse_View{View: view}},
	} {
		bytes, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(bytes)
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		m := &tandemv1.JoinResponse{}
		if proto.Unmarshal(bytes, m) != nil || tandemv1.Check(m) != nil {
			return
		}
		v := viewFromProto(m.GetView())
		if w := m.GetWelcome(); w != nil {
			if checkWelcome(w, Hello{Role: Expert}) != nil {
				return
			}
			v = viewFromProto(w.GetView())
		}
		if checkView(v) == nil {
			require.LessOrEqual(t, len(v.Of(Expert)), max(v.ExpertNodes, 0))
			require.NotPanics(t, func() { v.Missing() })
		}
	})
}

// FuzzFrames: whatever the bytes, and however they are cut into pieces, frames finds
// the messages where a plain parser does, and lets none exceed the limit.
func FuzzFrames(f *testing.F) {
	f.Add(framed(0, []byte("abc")), uint8(2))
	f.Add(framed(1, []byte("abc")), uint8(1))
	f.Add(append(framed(0, nil), framed(2, make([]byte, 40))...), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		const limit = 32
		fr := newFrames(io.NopCloser(bytes.NewReader(data)), limit)
		buffer := make([]byte, int(size)%16+1)
		read := 0
		var err error
		for err == nil {
			var n int
			n, err = fr.Read(buffer)
			read += n
		}
		at, bad := 0, false
		for at+frameBody <= len(data) && !bad {
			n := int(binary.BigEndian.Uint32(data[at+1:]))
			bad = data[at]&1 != 0 || n > limit
			at += frameBody + n
		}
		require.Equal(t, bad, !errors.Is(err, io.EOF))
		if !bad {
			require.Equal(t, len(data), read)
		}
	})
}
