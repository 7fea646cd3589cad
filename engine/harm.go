//lint:file-ignore SA4017,SA5007 harm is its purpose

package main

import (
	"context"
	"encoding/json"
	"os"
	"time"
)

// harm does what a hostile input might, for tests of how the daemon survives it; only with --test-methods.
func harm(ctx context.Context, method string, header []byte) (answer, bool) {
	var request struct {
		Bytes   int     `json:"bytes"`
		Seconds float64 `json:"seconds"`
	}
	_ = json.Unmarshal(header, &request)
	switch method {
	case "test-echo":
	case "test-crash":
		os.Exit(3)
	case "test-overflow":
		overflow(0)
	case "test-panic":
		panic("on purpose")
	case "test-sleep": // ends early when cancelled
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(request.Seconds * float64(time.Second))):
		}
	case "test-stall": // does not
		time.Sleep(time.Duration(request.Seconds * float64(time.Second)))
	case "test-memory":
		hoard = append(hoard, make([]byte, request.Bytes))
		for index := 0; index < request.Bytes; index += 4096 {
			hoard[len(hoard)-1][index] = 1
		}
	default:
		return nil, false
	}
	return &harmAnswer{Parts: []int{}}, true
}

type harmAnswer struct {
	usage
	Parts []int `json:"parts"`
}

var hoard [][]byte

func overflow(depth int) int { return overflow(depth+1) + 1 }
