package main

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
)

// oneWay are the messages that went one way: those that the stream's user sent or got, not those that failed.
type oneWay struct {
	Count   uint64 `json:"count"`
	FirstNs int64  `json:"first_ns"` // 0: there was none
	LastNs  int64  `json:"last_ns"`
}

// both are the messages of a stream.
type both struct {
	Sent     oneWay `json:"sent"`
	Received oneWay `json:"received"`
}

// counter counts one way; one goroutine at a time counts, others may read.
type counter struct{ count, first, last atomic.Int64 }

func (c *counter) add(err error) error {
	if err == nil {
		at := now()
		c.first.CompareAndSwap(0, at)
		c.last.Store(at)
		c.count.Add(1)
	}
	return err
}

func (c *counter) result() oneWay {
	return oneWay{uint64(c.count.Load()), c.first.Load(), c.last.Load()}
}

// tally counts a stream's messages.
type tally struct{ sent, received counter }

func (t *tally) result() both { return both{t.sent.result(), t.received.result()} }

type tallyKey struct{}

// tallied makes the streams that are opened in a context count.
func tallied(ctx context.Context, t *tally) context.Context {
	return context.WithValue(ctx, tallyKey{}, t)
}

// NewStream opens a stream that counts, if the context asks for it.
func (l line) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := l.ClientConn.NewStream(ctx, desc, method, options...)
	if t, ok := ctx.Value(tallyKey{}).(*tally); ok && err == nil {
		return &clientCount{stream, t}, nil
	}
	return stream, err
}

type clientCount struct {
	grpc.ClientStream
	*tally
}

func (s *clientCount) SendMsg(m any) error { return s.sent.add(s.ClientStream.SendMsg(m)) }
func (s *clientCount) RecvMsg(m any) error { return s.received.add(s.ClientStream.RecvMsg(m)) }

type serverCount struct {
	grpc.ServerStream
	*tally
}

func (s *serverCount) SendMsg(m any) error { return s.sent.add(s.ServerStream.SendMsg(m)) }
func (s *serverCount) RecvMsg(m any) error { return s.received.add(s.ServerStream.RecvMsg(m)) }
