package kvcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Pages as bytes, little-endian:
//
//	header  "TKVP"
//	        version      u16
//	        model        u8 length, bytes
//	        numerics     u8 length, bytes
//	        page tokens  u32
//	        page bytes   u32
//	        pages        u32
//	        parent       16 bytes: the key that the first page follows
//	        checksum     u32
//	page    key          16 bytes
//	        tokens       u32 × page tokens
//	        data         page bytes
//	        checksum     u32
//
// Each page follows the one before it in their sequence. A checksum is the CRC-32C
// of all bytes of the header, or of the page, that precede it. A reader compares
// identity and sizes with its own before it allocates, derives every key from the
// tokens, and holds one page at a time.
const (
	wireMagic   = "TKVP"
	wireVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Page is one full page as read from the wire.
type Page struct {
	Key    Key
	Tokens []int32
	Data   []byte
}

// Writer writes consecutive pages of a sequence.
type Writer struct {
	w      io.Writer
	id     Identity
	bytes  int
	parent Key
	left   int
	buf    []byte
}

// NewWriter writes the header of a number of pages; size is the bytes of a page,
// and the first page follows parent.
func NewWriter(w io.Writer, id Identity, size int, parent Key, pages int) (*Writer, error) {
	b := append([]byte(nil), wireMagic...)
	b = binary.LittleEndian.AppendUint16(b, wireVersion)
	for _, s := range []string{id.Model, id.Numerics} {
		b = append(append(b, byte(len(s))), s...)
	}
	for _, v := range []int{id.PageTokens, size, pages} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	b = append(b, parent[:]...)
	if _, err := w.Write(appendChecksum(b)); err != nil {
		return nil, fmt.Errorf("writing the header of %d pages: %w", pages, err)
	}
	return &Writer{w: w, id: id, bytes: size, parent: parent, left: pages}, nil
}

// Write derives the next page's key and writes the page.
func (w *Writer) Write(tokens []int32, data []byte) error {
	if w.left == 0 || len(tokens) != w.id.PageTokens || len(data) != w.bytes {
		panic(fmt.Sprintf("kvcache: a page of %d tokens and %d bytes with %d left to write; pages have %d and %d",
			len(tokens), len(data), w.left, w.id.PageTokens, w.bytes))
	}
	w.left--
	w.parent, w.buf = next(w.parent, tokens, w.buf)
	b := append(w.buf[:0], w.parent[:]...)
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	w.buf = appendChecksum(append(b, data...))
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("writing a page, %d before the last: %w", w.left, err)
	}
	return nil
}

func appendChecksum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Reader reads what a [Writer] wrote.
type Reader struct {
	r      io.Reader
	offset int64
	first  Key // the key that the first page follows
	parent Key // the key that the next page follows
	pages  int
	left   int
	page   Page
	buf    []byte // one page with its checksum
	hash   []byte // scratch for the next key
}

// NewReader reads a header and compares it with the reader's own identity and
// page size.
func NewReader(r io.Reader, id Identity, size int) (*Reader, error) {
	d := &Reader{r: r}
	if err := d.header(id, size); err != nil {
		return nil, fmt.Errorf("reading the header of KV pages: %w", err)
	}
	d.page = Page{Tokens: make([]int32, id.PageTokens)}
	d.buf = make([]byte, len(Key{})+4*id.PageTokens+size+4)
	return d, nil
}

// Parent is the key that the first page follows.
func (d *Reader) Parent() Key { return d.first }

// Pages is how many pages the header announces.
func (d *Reader) Pages() int { return d.pages }

// header compares field by field, so that an error names both values. It reads
// at most 2·255 bytes of names.
func (d *Reader) header(id Identity, size int) error {
	b, err := d.read(nil, len(wireMagic)+2)
	if err != nil {
		return err
	}
	if string(b[:4]) != wireMagic {
		return fmt.Errorf("the first bytes are %q, not %q", b[:4], wireMagic)
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v != wireVersion {
		return fmt.Errorf("version %d, this is version %d", v, wireVersion)
	}
	var names [2]string
	for i := range names {
		if b, err = d.read(b, 1); err != nil {
			return err
		}
		n := int(b[len(b)-1])
		if b, err = d.read(b, n); err != nil {
			return err
		}
		names[i] = string(b[len(b)-n:])
	}
	fixed := len(b)
	if b, err = d.read(b, 3*4+len(Key{})+4); err != nil {
		return err
	}
	if err := d.check(b); err != nil {
		return err
	}
	sizes := b[fixed:]
	d.pages = int(binary.LittleEndian.Uint32(sizes[8:]))
	d.left = d.pages
	d.first = Key(sizes[12 : 12+len(Key{})])
	d.parent = d.first
	return match(id, size, names, int(binary.LittleEndian.Uint32(sizes)), int(binary.LittleEndian.Uint32(sizes[4:])))
}

// match names the first field that differs.
func match(id Identity, size int, names [2]string, tokens, bytes int) error {
	switch {
	case names[0] != id.Model:
		return fmt.Errorf("pages of model %q, this is model %q", names[0], id.Model)
	case names[1] != id.Numerics:
		return fmt.Errorf("pages of numerics %q, these are numerics %q", names[1], id.Numerics)
	case tokens != id.PageTokens:
		return fmt.Errorf("pages of %d tokens, these are of %d", tokens, id.PageTokens)
	case bytes != size:
		return fmt.Errorf("pages of %d bytes, these are of %d", bytes, size)
	}
	return nil
}

// read appends n bytes to b.
func (d *Reader) read(b []byte, n int) ([]byte, error) {
	at := len(b)
	b = append(b, make([]byte, n)...)
	got, err := io.ReadFull(d.r, b[at:])
	d.offset += int64(got)
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", d.offset, noEOF(err))
	}
	return b, nil
}

// noEOF turns io.EOF within a header or page into io.ErrUnexpectedEOF: the caller
// takes io.EOF for the regular end of the pages.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// check compares the checksum at the end of b with the checksum of the bytes before.
func (d *Reader) check(b []byte) error {
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return fmt.Errorf("at byte %d: checksum %08x, the bytes have %08x", d.offset-4, sum, got)
	}
	return nil
}

// Next reads a page; its slices are valid until the next call. After the last page
// it returns io.EOF.
func (d *Reader) Next() (Page, error) {
	if d.left == 0 {
		return Page{}, io.EOF
	}
	if err := d.next(); err != nil {
		return Page{}, fmt.Errorf("reading KV page %d of %d: %w", d.pages-d.left, d.pages, err)
	}
	d.left--
	return d.page, nil
}

func (d *Reader) next() error {
	got, err := io.ReadFull(d.r, d.buf)
	d.offset += int64(got)
	if err != nil {
		return fmt.Errorf("at byte %d: %w", d.offset, noEOF(err))
	}
	if err := d.check(d.buf); err != nil {
		return err
	}
	body := d.buf[len(Key{}):]
	for i := range d.page.Tokens {
		d.page.Tokens[i] = int32(binary.LittleEndian.Uint32(body[4*i:]))
	}
	d.page.Data = body[4*len(d.page.Tokens) : len(body)-4]
	d.page.Key = Key(d.buf[:len(Key{})])
	d.parent, d.hash = next(d.parent, d.page.Tokens, d.hash)
	if d.page.Key != d.parent {
		return fmt.Errorf("key %x, its tokens have %x", d.page.Key, d.parent)
	}
	return nil
}
