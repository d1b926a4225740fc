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
