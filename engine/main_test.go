package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// talk is the daemon's side of a pipe to an engine.
type talk struct {
	t       *testing.T
	in      *io.PipeWriter
	out     *io.PipeReader
	ended   chan error
	writer  frameWriter
	numbers uint32
}

func newTalk(t *testing.T) *talk {
	requests, in := io.Pipe()
	out, answers := io.Pipe()
	engine := &engine{answers: &frameWriter{out: answers}, tests: true, running: map[uint32]context.CancelFunc{}}
	talk := &talk{t: t, in: in, out: out, ended: make(chan error, 1), writer: frameWriter{out: in}}
	go func() { talk.ended <- engine.serve(requests) }()
	return talk
}

func (k *talk) send(method string, timeout float64, fields map[string]any, parts ...[]byte) uint32 {
	k.t.Helper()
	lengths := []int{}
	for _, part := range parts {
		lengths = append(lengths, len(part))
	}
	header := map[string]any{"method": method, "timeout": timeout, "parts": lengths}
	for name, value := range fields {
		header[name] = value
	}
	k.numbers++
	if err := k.writer.write(frameRequest, k.numbers, header, parts...); err != nil {
		k.t.Fatal(err)
	}
	return k.numbers
}

func (k *talk) receive() (frame, failure) {
	k.t.Helper()
	got, err := readFrame(k.out)
	if err != nil {
		k.t.Fatal(err)
	}
	var failed failure
	if got.kind == frameFailure {
		if err := json.Unmarshal(got.header, &failed); err != nil {
			k.t.Fatal(err)
		}
	}
	return got, failed
}

func TestABuildTravelsThroughThePipe(t *testing.T) {
	talk := newTalk(t)
	number := talk.send("build", 20, map[string]any{"tree": shared(t, smallApp), "path": "app"})
	got, failed := talk.receive()
	var answer buildAnswer
	if err := json.Unmarshal(got.header, &answer); err != nil || got.kind != frameAnswer || got.request != number {
		t.Fatal(got, failed, err)
	}
	if !json.Valid(got.payload) || answer.Count != 4 || answer.Parts[0] != len(got.payload) || answer.Memory == 0 || !strings.HasPrefix(answer.Digest, "sha256:") {
		t.Error(answer)
	}
	talk.send("substitute", 20, map[string]any{"variables": map[string]string{"v": "x"}, "strict": true}, []byte("a ${v}"), []byte("b ${v}"))
	if got, _ := talk.receive(); string(got.payload) != "a xb x" {
		t.Error(got)
	}
	talk.in.Close()
	if err := <-talk.ended; err != nil {
		t.Error("the end of the input is no error", err)
	}
}

func TestRequestsOverlapAndCanBeCancelled(t *testing.T) {
	talk := newTalk(t)
	slow := talk.send("test-sleep", 60, map[string]any{"seconds": 60})
	quick := talk.send("test-echo", 60, nil)
	if got, _ := talk.receive(); got.request != quick || got.kind != frameAnswer {
		t.Error(got)
	}
	if err := talk.writer.write(frameCancel, slow, nil); err != nil {
		t.Fatal(err)
	}
	if got, failed := talk.receive(); got.request != slow || failed.Class != classCancelled {
		t.Error(got, failed)
	}
	if err := talk.writer.write(frameCancel, 999, nil); err != nil {
		t.Fatal(err)
	}
	talk.send("test-echo", 60, nil)
	if got, _ := talk.receive(); got.kind != frameAnswer {
		t.Error(got)
	}
}

func TestARequestThatTakesTooLongIsATimeoutOnceItHasStopped(t *testing.T) {
	talk := newTalk(t)
	began := time.Now()
	talk.send("test-stall", 0.01, map[string]any{"seconds": 0.2})
	if _, failed := talk.receive(); failed.Class != classTimeout || time.Since(began) < 200*time.Millisecond {
		t.Error(failed, time.Since(began))
	}
}

func TestAPanicIsAnErrorOfItsRequest(t *testing.T) {
	talk := newTalk(t)
	talk.send("test-panic", 20, nil)
	if _, failed := talk.receive(); failed.Class != classBuild || failed.Message != "recovered from panic: on purpose" {
		t.Error(failed)
	}
	talk.send("test-echo", 20, nil)
	if got, _ := talk.receive(); got.kind != frameAnswer {
		t.Error(got)
	}
}

func TestWhatCannotBeAskedIsSaid(t *testing.T) {
	talk := newTalk(t)
	for method, want := range map[string]string{"nope": `there is no method "nope"`, "build": "the shared tree cannot be opened"} {
		talk.send(method, 20, nil)
		if _, failed := talk.receive(); failed.Class != classRequest || failed.Message != want {
			t.Error(failed)
		}
	}
	talk.send("test-echo", 0, nil)
	if _, failed := talk.receive(); failed.Message != "malformed request" {
		t.Error(failed)
	}
	talk.send("build", 20, map[string]any{"tree": 5})
	if _, failed := talk.receive(); failed.Class != classRequest {
		t.Error(failed)
	}
}

func TestMalformedFramesEndTheLoop(t *testing.T) {
	legal := func(length, header uint32, kind byte) []byte {
		var data bytes.Buffer
		_ = binary.Write(&data, binary.BigEndian, length)
		data.WriteByte(kind)
		_ = binary.Write(&data, binary.BigEndian, []uint32{1, header})
		return data.Bytes()
	}
	for name, data := range map[string][]byte{
		"too long": legal(1<<30, 0, 1), "too short": legal(3, 0, 1), "header too long": legal(9, 1, 1), "an answer": legal(9, 0, 3), "cut": legal(20, 0, 1),
	} {
		engine := &engine{answers: &frameWriter{out: io.Discard}, running: map[uint32]context.CancelFunc{}}
		if err := engine.serve(bytes.NewReader(data)); err == nil {
			t.Error(name)
		}
	}
	if _, err := cut([]byte("abc"), []int{2}); !errors.Is(err, errFrame) {
		t.Error(err)
	}
	if _, err := cut([]byte("abc"), []int{2, -1, 2}); !errors.Is(err, errFrame) {
		t.Error(err)
	}
}

func TestMessagesAreFitToBeShown(t *testing.T) {
	for message, want := range map[string]string{
		"open " + root + "/a: x":              "open /a: x",
		"below '" + root + "'":                "below '/'",
		"a\x1b[31m\x00\u202e\xffb\r\nc":       "a [31m  \uFFFDb \nc",
		strings.Repeat("ä", 3000):             strings.Repeat("ä", 2046) + "...",
		strings.Repeat("x", maxMessage):       strings.Repeat("x", maxMessage),
		strings.Repeat("x", maxMessage) + "y": strings.Repeat("x", maxMessage-3) + "...",
	} {
		if got := presentable(message); got != want {
			t.Errorf("%.60q became %.60q", message, got)
		}
	}
}

func FuzzFramesNeverPanic(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x09\x01\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		for reader := bytes.NewReader(data); ; {
			if _, err := readFrame(reader); err != nil {
				return
			}
		}
	})
}
