package kernel

// Mirror is a device buffer whose contents the host reads. Where the host addresses
// device memory, it reads them there, without a copy; elsewhere Fetch copies them to
// host-visible memory.
type Mirror struct {
	// Buffer is the device's: operations write it.
	Buffer Buffer
	host   Buffer // nil where the host addresses Buffer
}

// NewMirror allocates n elements.
func NewMirror(dev Memory, t DType, n int) (Mirror, error) {
	b, err := dev.Alloc(DeviceMemory, t, n)
	if err != nil || b.Bytes() != nil || n == 0 {
		return Mirror{Buffer: b}, err
	}
	m := Mirror{Buffer: b}
	if m.host, err = dev.Alloc(HostVisible, t, n); err != nil {
		dev.Free(b)
		return Mirror{}, err
	}
	return m, nil
}

// Fetch enqueues a copy of the first n elements to the host, where one is needed. The host
// reads them in Host once an Event recorded afterwards has completed, and until an
// operation writes Buffer or Fetch is called again.
func (m Mirror) Fetch(dev Memory, n int) {
	if m.host != nil && n > 0 {
		dev.Read(m.host.Bytes()[:m.host.DType().Bytes(n)], m.Buffer, 0)
	}
}

// Host is the memory that the host reads.
func (m Mirror) Host() Buffer {
	if m.host != nil {
		return m.host
	}
	return m.Buffer
}

// Free gives the memory back; the zero Mirror has none.
func (m Mirror) Free(dev Memory) {
	for _, b := range []Buffer{m.Buffer, m.host} {
		if b != nil {
			dev.Free(b)
		}
	}
}
