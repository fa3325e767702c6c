package api

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
)

// Bounds of a packed body, beside those of the body itself: what unpacks to more
// than ratio times its size, from some size on, is made to do harm.
const (
	packedFree  = 1 << 20 // bytes
	packedRatio = 100
)

// unpacked is a body as it was before its Content-Encoding.
func unpacked(w http.ResponseWriter, encoding string, body io.Reader) (io.Reader, error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
		return unzip(body)
	}
	w.Header().Set("Accept-Encoding", "gzip, identity")
	return nil, &Error{
		Status: http.StatusUnsupportedMediaType, Type: "invalid_request_error", Code: "unsupported_content_encoding",
		Message: "the header Content-Encoding is " + clipped(encoding) +
			": only gzip and identity are understood; send the body as it is",
	}
}

// unzipped is a body in gzip's format, which is refused where it grows too much.
type unzipped struct {
	*gzip.Reader
	packed *counted
	bytes  int64
}

func unzip(body io.Reader) (io.Reader, error) {
	packed := &counted{Reader: body}
	z, err := gzip.NewReader(packed)
	if err != nil {
		return nil, gzipError(err)
	}
	return &unzipped{Reader: z, packed: packed}, nil
}

func (u *unzipped) Read(b []byte) (int, error) {
	n, err := u.Reader.Read(b)
	u.bytes += int64(n)
	if u.bytes > packedFree && u.bytes > packedRatio*u.packed.bytes {
		return n, &Error{
			Status: http.StatusRequestEntityTooLarge, Type: "invalid_request_error", Code: "request_too_large",
			Message: "the body unpacks to more than a hundred times its size",
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = gzipError(err)
	}
	return n, err
}

// gzipError is what a client is told; a deadline keeps its own words.
func gzipError(err error) error {
	if e := bodyError(err); e.Status != http.StatusBadRequest {
		return e
	}
	return invalid("", "the body is not in gzip's format, as its header Content-Encoding says: %v", err)
}

// counted counts what is read, in bytes.
type counted struct {
	io.Reader
	bytes int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.bytes += int64(n)
	return n, err
}
