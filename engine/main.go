// The engine renders what gitopsd applies: it links the libraries that exist only in Go and answers requests on its
// standard input and output, many at a time. It renders and decrypts; it decides nothing, it has no network, it never
// sees the API server, and it changes nothing outside of its own memory.
//
// What it is given is vetted before a library reads it (vet.go, survey.go). What still ends the process, a stack that
// overflows or memory that runs out, ends only this process: the daemon starts another and finds out which request it
// was (gitopsd/engine.py).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

func main() {
	memory := flag.Int64("memory", 512<<20, "bytes of memory after which the process ends")
	tests := flag.Bool("test-methods", false, "answer the methods that tests use to do harm")
	flag.Parse()
	limitMemory(*memory)
	boundLibraries()
	answers := os.Stdout
	os.Stdout = os.Stderr // a library that prints must not get between the frames
	engine := &engine{answers: &frameWriter{out: answers}, tests: *tests, running: map[uint32]context.CancelFunc{}}
	if err := engine.serve(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// limitMemory makes the collector work harder near the limit, and the process end beyond it: quickly, and before the
// machine feels it.
func limitMemory(limit int64) {
	debug.SetGCPercent(200) // what lives between builds is little; to collect less often saves a fifth of their time
	debug.SetMemoryLimit(limit * 3 / 4)
	debug.SetMaxStack(64 << 20)
	setDataLimit(uint64(limit))
}

// boundLibraries sets what the libraries can be told only for the whole process.
func boundLibraries() {
	http.DefaultTransport = noNetwork{}
	jsonpatch.AccumulatedCopySizeLimit = 16 << 20 // thirty "copy" operations make a gigabyte of a byte
}

type engine struct {
	answers *frameWriter
	trees   treeCache
	tests   bool

	mutex   sync.Mutex
	running map[uint32]context.CancelFunc
	busy    sync.WaitGroup
	touched time.Time
}

// requestHeader is what every request's header has; its method reads the rest.
type requestHeader struct {
	Method  string  `json:"method"`
	Timeout float64 `json:"timeout"` // seconds
	Parts   []int   `json:"parts"`
}

// serve answers requests until the input ends.
func (e *engine) serve(in io.Reader) error {
	stop := make(chan struct{})
	defer close(stop)
	go e.tidy(stop)
	for {
		frame, err := readFrame(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch frame.kind {
		case frameRequest:
			e.start(frame)
		case frameCancel:
			e.mutex.Lock()
			if cancel := e.running[frame.request]; cancel != nil {
				cancel()
			}
			e.mutex.Unlock()
		default:
			return errFrame
		}
	}
}

func (e *engine) start(frame frame) {
	var header requestHeader
	if err := json.Unmarshal(frame.header, &header); err != nil || header.Timeout <= 0 {
		e.fail(frame.request, context.Background(), &failure{Class: classRequest, Message: "malformed request"})
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(header.Timeout*float64(time.Second)))
	e.mutex.Lock()
	e.running[frame.request] = cancel
	e.mutex.Unlock()
	e.busy.Go(func() {
		defer func() {
			cancel()
			e.mutex.Lock()
			delete(e.running, frame.request)
			e.touched = time.Now()
			e.mutex.Unlock()
		}()
		e.answer(ctx, frame, header)
	})
}

// answer works on one request. It answers when the work has really ended, not when its time is over: as long as there
// is no answer, the daemon knows that somebody is still at work here.
func (e *engine) answer(ctx context.Context, frame frame, header requestHeader) {
	defer func() {
		if trouble := recover(); trouble != nil {
			fmt.Fprintf(os.Stderr, "panic in %s: %v\n%s", header.Method, trouble, debug.Stack())
			e.fail(frame.request, ctx, buildError("recovered from panic: %v", trouble))
		}
	}()
	parts, err := cut(frame.payload, header.Parts)
	if err != nil {
		e.fail(frame.request, ctx, &failure{Class: classRequest, Message: err.Error()})
		return
	}
	result, payload, err := e.perform(ctx, header.Method, frame.header, parts)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		result.measure()
		err = e.answers.write(frameAnswer, frame.request, result, payload...)
	}
	if err != nil {
		e.fail(frame.request, ctx, err)
	}
}

// answer is the header of a method's answer.
type answer interface{ measure() }

func (e *engine) perform(ctx context.Context, method string, header []byte, parts [][]byte) (answer, [][]byte, error) {
	switch method {
	case "build":
		var request buildRequest
		if err := json.Unmarshal(header, &request); err != nil {
			return nil, nil, &failure{Class: classRequest, Message: err.Error()}
		}
		built, objects, err := e.build(ctx, &request, parts)
		return built, [][]byte{objects}, err
	case "substitute":
		var request substituteRequest
		if err := json.Unmarshal(header, &request); err != nil {
			return nil, nil, &failure{Class: classRequest, Message: err.Error()}
		}
		substituted, results := substitute(&request, parts)
		return substituted, results, nil
	case "notation":
		return e.notation(ctx, header, parts)
	case "chart", "package":
		return e.charts(ctx, method, header, parts)
	}
	if e.tests {
		if result, known := harm(ctx, method, header); known {
			return result, nil, nil
		}
	}
	return nil, nil, &failure{Class: classRequest, Message: "there is no method " + strconv.Quote(method)}
}

func (e *engine) fail(request uint32, ctx context.Context, err error) {
	known, is := errors.AsType[*failure](err)
	if !is {
		known = &failure{Class: classBuild, Message: err.Error()}
	}
	switch ctx.Err() {
	case context.DeadlineExceeded:
		known = &failure{Class: classTimeout, Message: "its time was over"}
	case context.Canceled:
		known = &failure{Class: classCancelled, Message: "it was cancelled"}
	}
	known.measure()
	known.Message = presentable(known.Message)
	if err := e.answers.write(frameFailure, request, known); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

const maxMessage = 4096

// presentable makes a message fit to be shown: paths begin at the artifact's root, nothing in it moves a cursor, and it
// is not too long.
func presentable(message string) string {
	message = strings.ReplaceAll(message, root+"/", "/")
	message = strings.ReplaceAll(message, root, "/")
	message = strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf)) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(message, "\uFFFD"))
	if len(message) <= maxMessage {
		return message
	}
	end := maxMessage - len("...")
	for !utf8.RuneStart(message[end]) {
		end--
	}
	return message[:end] + "..."
}

// tidy gives memory back some time after the last request; a daemon is idle most of its life.
func (e *engine) tidy(stop <-chan struct{}) {
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for clean := true; ; {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		e.mutex.Lock()
		idle := len(e.running) == 0
		since := time.Since(e.touched)
		e.mutex.Unlock()
		switch {
		case !idle || since < 2*time.Second:
			clean = false
		case !clean:
			debug.FreeOSMemory()
			clean = true
		}
		e.trees.forgetIdle()
	}
}
