package main

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// shape works on a request, whichever way it came.
type shape func(ctx context.Context, id uint64) error

// How many calls a request makes at once.
const (
	fanWidth  = 4
	manyWidth = 50
	// Their headers fill more than one message.
	floodWidth = 600
	// The most messages that a stream of two goroutines sends.
	duplexMessages = 100
)

// slowFor and stuckFor are how long these shapes take, patience how long those wait who do not wait for the second.
const (
	slowFor  = 60 * time.Millisecond
	stuckFor = 10 * time.Second
	patience = 15 * time.Millisecond
)

// shapes are what a service can be asked for, by name.
func (n *node) shapes() map[string]shape {
	return map[string]shape{
		// Answers without calling anybody.
		"leaf":   func(context.Context, uint64) error { return nil },
		"slow":   func(ctx context.Context, _ uint64) error { return sleep(ctx, slowFor) },
		"stuck":  func(ctx context.Context, _ uint64) error { return sleep(ctx, stuckFor) },
		"fail":   func(_ context.Context, id uint64) error { return failure(id) },
		"flaky":  n.flakily,
		"broken": n.broken,
		"down":   func(context.Context, uint64) error { return status.Error(codes.Unavailable, "down for good") },

		// One call after the other, in ways that keep the request's context or goroutine.
		"sync":     n.one(unary, "leaf"),
		"upload":   n.one(upload, "leaf"),
		"download": n.one(download, "leaf"),
		"chat":     n.one(chat, "leaf"),
		"chain":    n.one(unary, "sync"),
		"streams":  n.one(chat, "chat"),
		"bare":     n.bare,
		"values":   n.values,
		"twice":    n.twice,
		"web":      n.byWeb,
		"relay":    func(ctx context.Context, _ uint64) error { return n.relay(ctx, unary) },
		"relays":   n.relays,

		// Calls with the metadata of the request, and calls to who makes such.
		"forward":        n.forward(&n.plain),
		"forward_secret": n.forward(&n.secret),
		"behind":         n.one(unary, "forward"),
		"behind_secret":  n.one(chat, "forward_secret"),

		// Other ways to the same service.
		"unix":        n.over(&n.unix),
		"secret":      n.over(&n.secret),
		"dns":         n.over(&n.dns),
		"passthrough": n.over(&n.passthrough),
		"brief":       n.over(&n.brief),
		"handler":     n.over(&n.handler),
		"patient":     n.patient,
		"baggage":     n.baggage,

		// Calls from other goroutines.
		"fanout_ctx": n.fanoutWithContext,
		"fanout":     n.fanout,
		"pool_ctx":   n.poolWithContext,
		"pool":       n.poolBare,
		"many":       n.many("many", manyWidth),
		"flood":      n.many("flood", floodWidth),
		"parcels":    n.parcels,
		"outlive":    n.outlive,

		// Calls that fail, and one that fails before it succeeds.
		"failed":   n.failed,
		"retry":    n.retry,
		"tired":    n.tired,
		"late":     n.late,
		"hasty":    n.hasty,
		"abort":    n.abort,
		"leave":    n.leave,
		"cut":      n.cut,
		"overrun":  n.overrun,
		"duplex":   n.duplex,
		"linger":   n.linger,
		"nobody":   n.failing(&n.closed, "nobody"),
		"nowhere":  n.failing(&n.noHost, "nowhere"),
		"unheard":  n.unheard,
		"overlong": n.overlong,
	}
}

// failure is an error of each code in turn.
func failure(id uint64) error {
	return status.Errorf(codes.Code(id%16+1), "failed as %d was told to", id)
}

// flakily fails the first time it is asked with a number.
func (n *node) flakily(_ context.Context, id uint64) error {
	if _, again := n.flaky.LoadOrStore(id, struct{}{}); !again {
		return status.Error(codes.Unavailable, "the first time is for nothing")
	}
	return nil
}

// must turns a call's failure into the request's, and its success into none.
func must(err error) error {
	if err == nil {
		return errors.New("did not fail")
	}
	return nil
}

// === Calls on the request's goroutine ===

// one makes one call of a kind that asks for a shape.
func (n *node) one(k kind, wanted string) shape {
	name := string(k)
	if wanted != "leaf" {
		name += "_" + wanted
	}
	return func(ctx context.Context, id uint64) error {
		return n.caller.call(ctx, n.plain, intent{id, name, mustFind}, k, wanted)
	}
}

// bare carries no context: only the goroutine ties it to its request.
func (n *node) bare(_ context.Context, id uint64) error {
	for _, k := range []kind{unary, chat} {
		if err := n.caller.call(context.Background(), n.plain, intent{id, "bare", mustFind}, k, "leaf"); err != nil {
			return err
		}
	}
	return nil
}

type depth int

// values is called elsewhere: only the context, some layers deep, ties it to its request.
func (n *node) values(ctx context.Context, id uint64) error {
	for i := range depth(5) {
		ctx = context.WithValue(ctx, i, "some value")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return n.pool.run(func() error {
		return n.caller.call(ctx, n.plain, intent{id, "values", mustFind}, unary, "leaf")
	})
}

func (n *node) twice(ctx context.Context, id uint64) error {
	for range 2 {
		if err := n.caller.call(ctx, n.plain, intent{id, "twice", mustFind}, unary, "leaf"); err != nil {
			return err
		}
	}
	return nil
}

// byWeb calls by HTTP and by gRPC within one request.
func (n *node) byWeb(ctx context.Context, id uint64) error {
	if err := n.caller.get(ctx, n.next.Main, intent{id, "web", mustFind}, "sync"); err != nil {
		return err
	}
	return n.caller.call(ctx, n.plain, intent{id, "web", mustFind}, unary, "leaf")
}

// relays asks for all methods of demo.Echo.
func (n *node) relays(ctx context.Context, _ uint64) error {
	for _, k := range []kind{unary, upload, download, chat} {
		if err := n.relay(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) over(to *line) shape {
	return func(ctx context.Context, id uint64) error {
		name := "over " + scheme(to.Target())
		switch to {
		case &n.brief:
			name = "brief"
		case &n.handler:
			name = "handler"
		}
		if err := n.caller.call(ctx, *to, intent{id, name, mustFind}, unary, "leaf"); err != nil {
			return err
		}
		return n.caller.call(ctx, *to, intent{id, name, mustFind}, chat, "leaf")
	}
}

func scheme(target string) string {
	before, _, found := strings.Cut(target, ":/")
	if !found {
		return "plain"
	}
	return before
}

// patient waits for a connection rather than fail.
func (n *node) patient(ctx context.Context, id uint64) error {
	return n.caller.call(ctx, n.plain, intent{id, "patient", mustFind}, unary, "leaf", grpc.WaitForReady(true))
}

// baggage carries more metadata than fits one frame.
func (n *node) baggage(ctx context.Context, id uint64) error {
	for i := range 8 {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-baggage-"+string(rune('a'+i)), strings.Repeat("b", 8<<10))
	}
	to := n.plain
	// Its headers end in another frame than they begin in.
	to.bare = true
	return n.caller.call(ctx, to, intent{id, "baggage", mustFind}, unary, "leaf")
}

// === Calls on other goroutines ===

func (n *node) fan(width int, call func() error) error {
	var group sync.WaitGroup
	failures := make([]error, width)
	for i := range width {
		group.Add(1)
		go func() {
			defer group.Done()
			failures[i] = call()
		}()
	}
	group.Wait()
	return errors.Join(failures...)
}

func (n *node) fanoutWithContext(ctx context.Context, id uint64) error {
	return n.fan(fanWidth, func() error {
		return n.caller.call(ctx, n.plain, intent{id, "fanout_ctx", mustFind}, unary, "leaf")
	})
}

func (n *node) fanout(_ context.Context, id uint64) error {
	return n.fan(fanWidth, func() error {
		return n.caller.call(context.Background(), n.plain, intent{id, "fanout", mustFind}, unary, "leaf")
	})
}

func (n *node) poolWithContext(ctx context.Context, id uint64) error {
	return n.pool.run(func() error {
		return n.caller.call(ctx, n.plain, intent{id, "pool_ctx", mustFind}, chat, "leaf")
	})
}

func (n *node) poolBare(_ context.Context, id uint64) error {
	return n.pool.run(func() error {
		return n.caller.call(context.Background(), n.plain, intent{id, "pool", mayFind}, unary, "leaf")
	})
}

// many has a lot of streams open on one connection at the same time.
func (n *node) many(name string, width int) shape {
	return func(ctx context.Context, id uint64) error {
		return n.fan(width, func() error {
			return n.caller.call(ctx, n.plain, intent{id, name, mustFind}, chat, "slow")
		})
	}
}

// outlive calls after the response, from a goroutine that the request has left behind.
func (n *node) outlive(_ context.Context, id uint64) error {
	n.background(func() {
		time.Sleep(10 * time.Millisecond)
		n.caller.call(context.Background(), n.plain, intent{id, "outlive", mayFind}, unary, "leaf")
	})
	return nil
}

// === Calls that fail ===

// failed asks for each kind of failure; none of them is the request's.
func (n *node) failed(ctx context.Context, id uint64) error {
	for _, k := range []kind{unary, upload, download, chat} {
		if err := must(n.caller.call(ctx, n.plain, intent{id, "failed", mustFind}, k, "fail")); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) failing(to *line, name string) shape {
	return func(ctx context.Context, id uint64) error {
		for _, k := range []kind{unary, chat} {
			if err := must(n.caller.call(ctx, *to, intent{id, name, mustFind}, k, "leaf")); err != nil {
				return err
			}
		}
		return nil
	}
}

// retry is one call that is sent twice.
func (n *node) retry(ctx context.Context, id uint64) error {
	return n.caller.call(ctx, n.retrying, intent{id, "retry", mustFind}, unary, "flaky")
}

// tired is one call that is sent until the policy gives up.
func (n *node) tired(ctx context.Context, id uint64) error {
	return must(n.caller.call(ctx, n.retrying, intent{id, "tired", mustFind}, unary, "down"))
}

// late: its answers come too late.
func (n *node) late(ctx context.Context, id uint64) error {
	for _, k := range []kind{unary, chat} {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			return must(n.caller.call(ctx, n.plain, intent{id, "late", mustFind}, k, "stuck"))
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// hasty gives calls up while their headers still wait to be written, and lets their memory be used again for others.
func (n *node) hasty(ctx context.Context, id uint64) error {
	to := n.plain
	// Such a call may be over before its headers are written: nothing is there any more that could be put in.
	to.bare = true
	over := make(chan struct{})
	for range 2 {
		n.background(func() {
			for {
				select {
				case <-over:
					return
				default:
					runtime.GC()
				}
			}
		})
	}
	defer close(over)
	return n.fan(fanWidth*manyWidth, func() error {
		for range 10 {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			// Whether it is in time does not matter.
			n.caller.call(ctx, to, intent{id, "hasty", mustFind}, unary, "leaf")
			cancel()
		}
		return nil
	})
}

// abort gives its calls up while it waits for them.
func (n *node) abort(ctx context.Context, id uint64) error {
	for _, k := range []kind{unary, download} {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(patience, cancel)
		if err := must(n.caller.call(ctx, n.plain, intent{id, "abort", mustFind}, k, "stuck")); err != nil {
			return err
		}
	}
	return nil
}

// leave cancels a stream and does not look at it again.
func (n *node) leave(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return n.open(ctx, id, "leave", func(stream grpc.ClientStream) error {
		cancel()
		return status.FromContextError(ctx.Err()).Err()
	})
}

// linger has the last answer long before it ends the stream.
func (n *node) linger(ctx context.Context, id uint64) error {
	return n.open(ctx, id, "linger", func(stream grpc.ClientStream) error {
		time.Sleep(slowFor / 2)
		if err := stream.CloseSend(); err != nil {
			return err
		}
		time.Sleep(slowFor / 2)
		return ended(stream.RecvMsg(&wrapperspb.BytesValue{}))
	})
}

// open begins a chat, asks once and leaves the rest to end, whose error is the call's.
func (n *node) open(ctx context.Context, id uint64, name string, end func(grpc.ClientStream) error) error {
	note := n.caller.note(n.plain, intent{id, name, mustFind}, chat, "leaf")
	stream, err := n.plain.NewStream(tallied(ctx, note.tally), chat.desc(), note.Path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(message()); err != nil {
		return err
	}
	if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
		return err
	}
	n.caller.done(note, end(stream))
	return nil
}

// overrun sends until it is told that nobody listens any more, which has not been told to it when it begins.
func (n *node) overrun(ctx context.Context, id uint64) error {
	note := n.caller.note(n.plain, intent{id, "overrun", mustFind}, chat, "fail")
	stream, err := n.plain.NewStream(tallied(ctx, note.tally), chat.desc(), note.Path)
	if err != nil {
		return err
	}
	for err == nil {
		err = stream.SendMsg(message())
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	err = stream.RecvMsg(&wrapperspb.BytesValue{})
	n.caller.done(note, err)
	return must(err)
}

// duplex sends and receives on two goroutines, neither of which waits for the other.
func (n *node) duplex(ctx context.Context, id uint64) error {
	note := n.caller.note(n.plain, intent{id, "duplex", mustFind}, chat, "leaf")
	stream, err := n.plain.NewStream(tallied(ctx, note.tally), chat.desc(), note.Path)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		for range id%duplexMessages + 1 {
			if err := stream.SendMsg(message()); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for err == nil {
		err = stream.RecvMsg(&wrapperspb.BytesValue{})
	}
	n.caller.done(note, ended(err))
	return errors.Join(<-sent, ended(err))
}

// unheard never gets as far as to be tried: its target's name is not resolved in time. It is not written down.
func (n *node) unheard(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return must(talk(ctx, n.never, unary, "/truth.unary.leaf/0"))
}

// overlong sends a message that its own side finds too long.
func (n *node) overlong(ctx context.Context, id uint64) error {
	to := n.plain
	// Such a call may be over before its headers are written: nothing is there any more that could be put in.
	to.bare = true
	for _, k := range []kind{unary, chat} {
		err := n.caller.call(ctx, to, intent{id, "overlong", mustFind}, k, "leaf", grpc.MaxCallSendMsgSize(1))
		if err := must(err); err != nil {
			return err
		}
	}
	return nil
}
