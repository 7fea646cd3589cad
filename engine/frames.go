package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/metrics"
	"sync"
)

// A frame, in both directions (numbers are big-endian):
//
//	length  uint32   of all that follows
//	kind    uint8    what it is
//	request uint32   which request it belongs to
//	header  uint32   the length of the JSON header
//	        header, then the payload up to the frame's end
//
// A header that has "parts" tells how the payload is cut: the length of each part, in order. What is large or not text
// (manifests, overlay files) travels as a part, untouched by JSON.
type frame struct {
	kind    frameKind
	request uint32
	header  []byte
	payload []byte
}

type frameKind uint8

const (
	frameRequest frameKind = 1 // daemon: do this
	frameCancel  frameKind = 2 // daemon: the answer to this request is no longer wanted
	frameAnswer  frameKind = 3 // engine: done
	frameFailure frameKind = 4 // engine: not done, and why
)

const (
	frameFixed   = 9       // kind, request and header length
	frameMaximum = 1 << 29 // one frame's bytes; far above any bound on what a frame may carry
)

var errFrame = errors.New("malformed frame")

func readFrame(in io.Reader) (frame, error) {
	var fixed [4 + frameFixed]byte
	if _, err := io.ReadFull(in, fixed[:]); err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(fixed[0:4])
	header := binary.BigEndian.Uint32(fixed[9:13])
	if length < frameFixed || length > frameMaximum || header > length-frameFixed {
		return frame{}, errFrame
	}
	body := make([]byte, length-frameFixed)
	if _, err := io.ReadFull(in, body); err != nil {
		return frame{}, io.ErrUnexpectedEOF
	}
	return frame{
		kind:    frameKind(fixed[4]),
		request: binary.BigEndian.Uint32(fixed[5:9]),
		header:  body[:header],
		payload: body[header:],
	}, nil
}

// frameWriter lets one frame at a time onto the pipe.
type frameWriter struct {
	mutex sync.Mutex
	out   io.Writer
}

func (w *frameWriter) write(kind frameKind, request uint32, header any, parts ...[]byte) error {
	head, err := json.Marshal(header)
	if err != nil {
		return err
	}
	length := frameFixed + len(head)
	for _, part := range parts {
		length += len(part)
	}
	if length > frameMaximum {
		return fmt.Errorf("an answer of %d bytes is too long", length)
	}
	fixed := make([]byte, 4+frameFixed, 4+frameFixed+len(head))
	binary.BigEndian.PutUint32(fixed[0:4], uint32(length))
	fixed[4] = byte(kind)
	binary.BigEndian.PutUint32(fixed[5:9], request)
	binary.BigEndian.PutUint32(fixed[9:13], uint32(len(head)))
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if _, err := w.out.Write(append(fixed, head...)); err != nil {
		return err
	}
	for _, part := range parts {
		if _, err := w.out.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// cut splits a payload into the parts its header speaks of.
func cut(payload []byte, lengths []int) ([][]byte, error) {
	parts := make([][]byte, 0, len(lengths))
	for _, length := range lengths {
		if length < 0 || length > len(payload) {
			return nil, errFrame
		}
		parts = append(parts, payload[:length:length])
		payload = payload[length:]
	}
	if len(payload) != 0 {
		return nil, errFrame
	}
	return parts, nil
}

// usage is in every answer: what the process keeps by now, so that the daemon replaces it before it grows too large.
type usage struct {
	Memory uint64 `json:"memory"`
}

func (u *usage) measure() {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	u.Memory = samples[0].Value.Uint64() - samples[1].Value.Uint64()
}

// failure is an error as the daemon sees it. Class says what to do about it, Rule which bound it broke.
type failure struct {
	usage
	Class      string      `json:"class"`
	Message    string      `json:"message"`
	Rule       string      `json:"rule,omitempty"`
	Step       string      `json:"step,omitempty"` // which step of packaging a chart it was
	References []reference `json:"references,omitempty"`
}

func (f *failure) Error() string { return f.Message }

const (
	classBuild     = "build"     // the input is wrong: the message is for its author
	classRemote    = "remote"    // the build needs what References name, which only the daemon may fetch
	classCancelled = "cancelled" // nobody waits any more
	classTimeout   = "timeout"   // the request's own time is over
	classRequest   = "request"   // the daemon asked for something that does not exist
)

func buildError(format string, arguments ...any) error {
	return &failure{Class: classBuild, Message: fmt.Sprintf(format, arguments...)}
}

func refusal(rule, format string, arguments ...any) error {
	return &failure{Class: classBuild, Rule: rule, Message: fmt.Sprintf(format, arguments...)}
}
