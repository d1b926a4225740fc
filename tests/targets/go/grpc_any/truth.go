package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// record is a line of the log, with the keys of ../grpc/truth.go, which says what they are.
type record struct {
	ID       uint64 `json:"id"`
	Parent   uint64 `json:"parent"`
	Kind     string `json:"kind"`
	Service  string `json:"service"`
	RPC      string `json:"rpc"`
	Method   string `json:"method"`
	Path     string `json:"path"`
	Peer     string `json:"peer"`
	Status   int    `json:"status"`
	Code     string `json:"code"`
	StartNs  int64  `json:"start_ns"`
	EndNs    int64  `json:"end_ns"`
	Error    string `json:"error"`
	Shape    string `json:"shape"`
	Expect   string `json:"expect"`
	TLS      bool   `json:"tls"`
	Bare     bool   `json:"bare"`
	Messages *both  `json:"messages,omitempty"`
}

type oneWay struct {
	Count   uint64 `json:"count"`
	FirstNs int64  `json:"first_ns"`
	LastNs  int64  `json:"last_ns"`
}

type both struct {
	Sent     oneWay `json:"sent"`
	Received oneWay `json:"received"`
}

// add counts a message unless it failed.
func (w *oneWay) add(err error) error {
	if err == nil {
		w.LastNs = now()
		if w.Count == 0 {
			w.FirstNs = w.LastNs
		}
		w.Count++
	}
	return err
}

// codeNames are the codes as gRPC's documents write them, by number.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

type journal struct {
	mu     sync.Mutex
	buffer *bufio.Writer
}

func openJournal(path string) (*journal, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &journal{buffer: bufio.NewWriter(file)}, nil
}

func (j *journal) write(r record) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buffer.Write(append(line, '\n'))
}

func (j *journal) flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buffer.Flush()
}

func idOf(path string) uint64 {
	id, _ := strconv.ParseUint(path[strings.LastIndexByte(path, '/')+1:], 10, 64)
	return id
}

func now() int64 { return time.Now().UnixNano() }
