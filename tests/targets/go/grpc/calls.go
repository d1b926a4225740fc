package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Messages that one side of a stream sends.
const messages = 3

// kind is which side of a call streams.
type kind string

const (
	unary    kind = "unary"
	upload   kind = "upload"
	download kind = "download"
	chat     kind = "chat"
)

// desc describes the streams of a kind.
func (k kind) desc() *grpc.StreamDesc {
	return &grpc.StreamDesc{ClientStreams: k == upload || k == chat, ServerStreams: k == download || k == chat}
}

// intent is what a call about to be made knows of itself.
type intent struct {
	parent uint64
	shape  string
	expect string
}

// caller makes calls and writes them down.
type caller struct {
	service string
	journal *journal
	lastID  atomic.Uint64
	web     *http.Client
}

func newCaller(service string, firstID uint64, journal *journal) *caller {
	c := &caller{
		service: service,
		journal: journal,
		web:     &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}},
	}
	c.lastID.Store(firstID)
	return c
}

// line is a connection to a target, as the program dialled it.
type line struct {
	*grpc.ClientConn
	// No header that names the call can be put into what it sends.
	bare bool
}

// call makes one call of a kind that asks for a shape, and takes its answer whole.
func (c *caller) call(ctx context.Context, to line, i intent, k kind, shape string, options ...grpc.CallOption) error {
	note := c.note(to, i, k, shape)
	err := talk(tallied(ctx, note.tally), to, k, note.Path, options...)
	c.done(note, err)
	return err
}

// note begins the record of a call.
func (c *caller) note(to line, i intent, k kind, shape string) record {
	id := c.lastID.Add(1)
	return record{
		ID: id, Parent: i.parent, Kind: "exit", Service: c.service, RPC: string(k),
		Path: fmt.Sprintf("/truth.%s.%s/%d", k, shape, id), Peer: to.Target(), Shape: i.shape, Expect: i.expect,
		Bare: to.bare, StartNs: now(), tally: &tally{},
	}
}

// done ends it.
func (c *caller) done(note record, err error) {
	note.EndNs = now()
	note.Code = codeOf(err)
	if note.RPC != string(unary) {
		messages := note.tally.result()
		note.Messages = &messages
	}
	if err != nil {
		note.Error = err.Error()
	}
	c.journal.write(note)
}

func message() *wrapperspb.BytesValue {
	return wrapperspb.Bytes([]byte("a few bytes"))
}

// talk makes a call from its beginning to its end.
func talk(ctx context.Context, to line, k kind, method string, options ...grpc.CallOption) error {
	if k == unary {
		return to.Invoke(ctx, method, message(), &wrapperspb.BytesValue{}, options...)
	}
	stream, err := to.NewStream(ctx, k.desc(), method, options...)
	if err != nil {
		return err
	}
	sent := 1
	if k != download {
		sent = messages
	}
	for range sent {
		// What went wrong is what the other side says.
		if err := stream.SendMsg(message()); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if k == chat {
			if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
				return ended(err)
			}
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if k == upload {
		return stream.RecvMsg(&wrapperspb.BytesValue{})
	}
	for {
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
			return ended(err)
		}
	}
}

// ended: a stream's end is no error.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// get makes one call by HTTP.
func (c *caller) get(ctx context.Context, base string, i intent, shape string) error {
	id := c.lastID.Add(1)
	note := record{
		ID: id, Parent: i.parent, Kind: "exit", Service: c.service, Method: http.MethodGet,
		Path: "/" + shape + "/" + strconv.FormatUint(id, 10), Peer: strings.TrimPrefix(base, "http://"),
		Shape: i.shape, Expect: i.expect,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+note.Path, nil)
	if err != nil {
		return err
	}
	note.StartNs = now()
	response, err := c.web.Do(request)
	note.EndNs = now()
	if err != nil {
		note.Error = err.Error()
		c.journal.write(note)
		return err
	}
	defer response.Body.Close()
	note.Status = response.StatusCode
	c.journal.write(note)
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// pool is a fixed number of workers that make calls for whoever hands them a job.
type pool chan job

type job struct {
	call func() error
	done chan error
}

func newPool(workers int) pool {
	jobs := make(pool)
	for range workers {
		go func() {
			for j := range jobs {
				j.done <- j.call()
			}
		}()
	}
	return jobs
}

func (p pool) run(call func() error) error {
	j := job{call: call, done: make(chan error, 1)}
	p <- j
	return <-j.done
}

// sleep waits, or until the context ends.
func sleep(ctx context.Context, wait time.Duration) error {
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
