package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// record is what really happened, once for each request served and each call made. The number that ends the path
// is the call's: the call and the request that it becomes elsewhere share it, and nothing else has it.
type record struct {
	ID      uint64 `json:"id"`
	Parent  uint64 `json:"parent"` // of a call: the request on whose behalf it was made
	Kind    string `json:"kind"`   // entry: a request served; exit: a call made
	Service string `json:"service"`
	RPC     string `json:"rpc"`    // of gRPC: unary, upload, download or chat; empty for HTTP
	Method  string `json:"method"` // of HTTP
	Path    string `json:"path"`
	Peer    string `json:"peer"`   // of a call: the target as it was dialled
	Status  int    `json:"status"` // of HTTP; 0: there is none, or it is not known
	Code    string `json:"code"`   // of gRPC; empty: not known
	StartNs int64  `json:"start_ns"`
	EndNs   int64  `json:"end_ns"` // 0: the end is not the program's to know
	Error   string `json:"error"`
	Shape   string `json:"shape"`  // in which way the call was made, or the route that served
	Expect  string `json:"expect"` // of a call: see mustFind
	TLS     bool   `json:"tls"`
	Bare    bool   `json:"bare"` // of a call: its connection cannot carry a header that names it

	// Of a stream, and of any call that is served, for a server does not know which is none.
	Messages *both `json:"messages,omitempty"`

	tally *tally
}

const (
	// mustFind: whoever watches from outside has to find this very parent.
	mustFind = "must"
	// mayFind: nothing ties the call to its parent any more. This parent or none, but no other.
	mayFind = "may"
)

// codeNames are the codes as gRPC's documents write them, by number.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// codeOf names the code that an error stands for.
func codeOf(err error) string {
	code := status.Code(err)
	if code < codes.Code(len(codeNames)) {
		return codeNames[code]
	}
	return strconv.Itoa(int(code))
}

// journal writes records as lines of JSON.
type journal struct {
	mu     sync.Mutex
	file   *os.File
	buffer *bufio.Writer
}

func openJournal(path string) (*journal, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &journal{file: file, buffer: bufio.NewWriterSize(file, 1<<20)}, nil
}

func (j *journal) write(r record) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buffer.Write(line)
	j.buffer.WriteByte('\n')
}

func (j *journal) flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buffer.Flush()
}

func (j *journal) close() error {
	if err := j.flush(); err != nil {
		return err
	}
	return j.file.Close()
}

// idOf takes the number from the end of a path, 0 where there is none.
func idOf(path string) uint64 {
	id, _ := strconv.ParseUint(path[strings.LastIndexByte(path, '/')+1:], 10, 64)
	return id
}

func now() int64 { return time.Now().UnixNano() }
