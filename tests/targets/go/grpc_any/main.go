// grpc_any is a service that any version of grpc-go since 1.37 and any Go since 1.19 can build: it has no go.mod, for
// whoever builds it writes one. It takes the arguments of ../grpc and writes the same log, but can do less.
//
//	serve -name front -log FILE -first-id N [-next ADDRESSES]
//
// Requests come as GET /SHAPE/ID, or as calls of /truth.KIND.SHAPE/ID. Without another service it calls itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

// plain sends bytes as they are: no version of protobuf goes with all versions of grpc-go.
type plain struct{}

func (plain) Name() string                          { return "plain" }
func (plain) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }

func (plain) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

const (
	// messages are what one side of a stream sends.
	messages = 3
	patience = 15 * time.Millisecond
	stuckFor = 10 * time.Second
	// The methods of the service that is registered, as a compiler would have made it, are called by these numbers.
	firstMethod = 900_000_000
	methods     = 64
)

type addresses struct {
	Main string `json:"main"`
	RPC  string `json:"rpc"`
}

type node struct {
	journal *journal
	name    string
	next    *grpc.ClientConn
	target  string
	lastID  uint64
	method  uint64
	left    sync.WaitGroup
}

func message() *[]byte {
	bytes := []byte("a few bytes")
	return &bytes
}

func desc(kind string) *grpc.StreamDesc {
	return &grpc.StreamDesc{
		ClientStreams: kind == "upload" || kind == "chat", ServerStreams: kind == "download" || kind == "chat",
	}
}

// === Calls ===

func (n *node) call(ctx context.Context, parent uint64, shape, kind, wanted string) error {
	id := atomic.AddUint64(&n.lastID, 1)
	return n.callAs(ctx, id, parent, shape, kind, fmt.Sprintf("/truth.%s.%s/%d", kind, wanted, id))
}

func (n *node) callAs(ctx context.Context, id, parent uint64, shape, kind, path string) error {
	note := record{
		ID: id, Parent: parent, Kind: "exit", Service: n.name, RPC: kind, Path: path, Peer: n.target, Shape: shape,
		Expect: "must", StartNs: now(),
	}
	var counted both
	err := n.talk(ctx, kind, path, &counted)
	note.EndNs = now()
	note.Code = codeOf(err)
	if err != nil {
		note.Error = err.Error()
	}
	if kind != "unary" {
		note.Messages = &counted
	}
	n.journal.write(note)
	return err
}

func (n *node) talk(ctx context.Context, kind, path string, counted *both) error {
	if kind == "unary" {
		return n.next.Invoke(ctx, path, message(), new([]byte))
	}
	stream, err := n.next.NewStream(ctx, desc(kind), path)
	if err != nil {
		return err
	}
	sent := 1
	if kind != "download" {
		sent = messages
	}
	for i := 0; i < sent; i++ {
		if err := counted.Sent.add(stream.SendMsg(message())); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		err := counted.Received.add(stream.RecvMsg(new([]byte)))
		if kind == "upload" || err != nil {
			return ended(err)
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// === Shapes ===

var kinds = []string{"unary", "upload", "download", "chat"}

func (n *node) serve(ctx context.Context, shape string, id uint64) error {
	switch shape {
	case "leaf":
		return nil
	case "fail":
		return status.Errorf(codes.Code(id%16+1), "failed as %d was told to", id)
	case "stuck":
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(stuckFor):
			return nil
		}
	case "unary", "upload", "download", "chat":
		return n.call(ctx, id, shape, shape, "leaf")
	case "chain":
		return n.call(ctx, id, shape, "unary", "unary")
	case "bare":
		return n.call(context.Background(), id, shape, "unary", "leaf")
	case "registered":
		number := firstMethod + atomic.AddUint64(&n.method, 1) - 1
		return n.callAs(ctx, number, id, shape, "unary", fmt.Sprintf("/fixed.unary/%d", number))
	case "fanout":
		results := make(chan error)
		for _, kind := range kinds {
			go func(kind string) { results <- n.call(ctx, id, shape, kind, "leaf") }(kind)
		}
		for range kinds {
			if err := <-results; err != nil {
				return err
			}
		}
		return nil
	case "failed":
		for _, kind := range kinds {
			if n.call(ctx, id, shape, kind, "fail") == nil {
				return errors.New("did not fail")
			}
		}
		return nil
	case "late":
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if n.call(ctx, id, shape, "unary", "stuck") == nil {
			return errors.New("did not fail")
		}
		return nil
	case "abort":
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(patience, cancel)
		if n.call(ctx, id, shape, "chat", "stuck") == nil {
			return errors.New("did not fail")
		}
		return nil
	}
	return status.Error(codes.Unimplemented, shape)
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/flush" {
		n.left.Wait()
		n.journal.flush()
		return
	}
	shape := strings.Split(r.URL.Path, "/")[1]
	note := record{
		ID: idOf(r.URL.Path), Kind: "entry", Service: n.name, Method: r.Method, Path: r.URL.Path, Shape: shape,
		Status: http.StatusOK, StartNs: now(),
	}
	if err := n.serve(r.Context(), shape, note.ID); err != nil {
		note.Status = http.StatusGatewayTimeout
		http.Error(w, err.Error(), note.Status)
	}
	note.EndNs = now()
	n.journal.write(note)
}

func (n *node) entry(kind, shape, path string) record {
	return record{
		ID: idOf(path), Kind: "entry", Service: n.name, RPC: kind, Path: path, Shape: shape, StartNs: now(),
	}
}

func (n *node) done(note record, err error) {
	note.EndNs = now()
	note.Code = codeOf(err)
	n.journal.write(note)
}

// stream serves any method that is not registered.
func (n *node) stream(_ interface{}, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	parts := strings.Split(strings.Split(path, "/")[1], ".")
	n.left.Add(1)
	defer n.left.Done()
	note := n.entry(parts[1], parts[2], path)
	note.Messages = &both{}
	err := n.answer(stream, parts[1], parts[2], note.ID, note.Messages)
	n.done(note, err)
	return err
}

func (n *node) answer(stream grpc.ServerStream, kind, shape string, id uint64, counted *both) error {
	for {
		if err := counted.Received.add(stream.RecvMsg(new([]byte))); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := n.serve(stream.Context(), shape, id); err != nil {
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.FromContextError(err).Err()
	}
	sent := 1
	if kind == "download" || kind == "chat" {
		sent = messages
	}
	for i := 0; i < sent; i++ {
		if err := counted.Sent.add(stream.SendMsg(message())); err != nil {
			return err
		}
	}
	return nil
}

// fixed describes a service with a method for each number.
func (n *node) fixed() *grpc.ServiceDesc {
	service := &grpc.ServiceDesc{ServiceName: "fixed.unary", HandlerType: (*interface{})(nil)}
	for i := uint64(0); i < methods; i++ {
		name := strconv.FormatUint(firstMethod+i, 10)
		service.Methods = append(service.Methods, grpc.MethodDesc{
			MethodName: name,
			Handler: func(_ interface{}, ctx context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
				note := n.entry("unary", "fixed", "/fixed.unary/"+name)
				err := decode(new([]byte))
				n.done(note, err)
				return message(), err
			},
		})
	}
	return service
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	name := flags.String("name", "service", "the service's name in its log")
	logPath := flags.String("log", "", "file for the log")
	firstID := flags.Uint64("first-id", 0, "calls are numbered from here on")
	next := flags.String("next", "", "what the next service printed when it started")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	encoding.RegisterCodec(plain{})
	// Before anything that says that it has started.
	over := make(chan os.Signal, 1)
	signal.Notify(over, syscall.SIGTERM, os.Interrupt)
	journal, err := openJournal(*logPath)
	if err != nil {
		return err
	}
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	rpc, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	own := addresses{Main: "http://" + web.Addr().String(), RPC: rpc.Addr().String()}
	other := own
	if *next != "" {
		if err := json.Unmarshal([]byte(*next), &other); err != nil {
			return fmt.Errorf("-next: %w", err)
		}
	}
	n := &node{journal: journal, name: *name, target: other.RPC, lastID: *firstID}
	n.next, err = grpc.Dial(other.RPC, grpc.WithInsecure(), grpc.WithDefaultCallOptions(grpc.CallContentSubtype(plain{}.Name())))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(n.stream))
	server.RegisterService(n.fixed(), n)
	go server.Serve(rpc)
	go http.Serve(web, n)
	line, err := json.Marshal(own)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", line)

	<-over
	return journal.close()
}

func main() {
	if len(os.Args) < 2 || os.Args[1] != "serve" {
		fmt.Fprintln(os.Stderr, "usage: grpc_any serve [flags]")
		os.Exit(2)
	}
	if err := serve(os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "grpc_any: %v\n", err)
		os.Exit(1)
	}
}
