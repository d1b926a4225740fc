// Bench_grpc is what tracing gRPC is measured on: an echo, and a client that asks it for as much as it can.
//
//	bench_grpc serve -listen ADDRESS
//	bench_grpc load -target ADDRESS
//
// The client reads lines "KIND CALLERS CONNECTIONS SECONDS" from standard input, where KIND is unary or chat, and prints
// a line of JSON for each when it is done: so it can be traced before it begins. A chat is a stream that carries ten
// messages each way, one after the other.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const messages = 10

var payload = wrapperspb.Bytes([]byte("hello, world\n"))

type echo interface{ echo() }

type echoServer struct{}

func (echoServer) echo() {}

var chatDesc = grpc.StreamDesc{StreamName: "Chat", ClientStreams: true, ServerStreams: true, Handler: chat}

var echoDesc = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*echo)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Unary",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.BytesValue{}
			return in, decode(in)
		},
	}},
	Streams: []grpc.StreamDesc{chatDesc},
}

func chat(_ any, stream grpc.ServerStream) error {
	for {
		in := &wrapperspb.BytesValue{}
		if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(in); err != nil {
			return err
		}
	}
}

func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	server.RegisterService(&echoDesc, echoServer{})
	return server.Serve(listener)
}

type call func(context.Context, *grpc.ClientConn) error

var kinds = map[string]call{
	"unary": func(ctx context.Context, connection *grpc.ClientConn) error {
		return connection.Invoke(ctx, "/bench.Echo/Unary", payload, &wrapperspb.BytesValue{})
	},
	"chat": func(ctx context.Context, connection *grpc.ClientConn) error {
		stream, err := connection.NewStream(ctx, &chatDesc, "/bench.Echo/Chat")
		if err != nil {
			return err
		}
		for range messages {
			if err := stream.SendMsg(payload); err != nil {
				return err
			}
			if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
				return err
			}
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
			return fmt.Errorf("the stream goes on: %v", err)
		}
		return nil
	},
}

// result is what one line of work brought.
type result struct {
	Requests  int     `json:"requests"`
	Errors    int     `json:"errors"`
	PerSecond float64 `json:"requests_per_s"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

// load lets callers call one after the other until the time is over.
func load(connections []*grpc.ClientConn, call call, callers int, duration time.Duration) result {
	var all result
	var times []time.Duration
	var mu sync.Mutex
	var done sync.WaitGroup
	begin := time.Now()
	for caller := range callers {
		done.Go(func() {
			var own []time.Duration
			failed := 0
			for time.Since(begin) < duration {
				start := time.Now()
				if call(context.Background(), connections[caller%len(connections)]) != nil {
					failed++
				}
				own = append(own, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			all.Errors += failed
		})
	}
	done.Wait()
	slices.Sort(times)
	all.Requests = len(times)
	all.PerSecond = float64(len(times)) / time.Since(begin).Seconds()
	all.P50 = times[len(times)/2].Seconds() * 1e3
	all.P99 = times[len(times)*99/100].Seconds() * 1e3
	return all
}

// work does what the lines of standard input say. Connections are kept from one line to the next.
func work(target string) error {
	var connections []*grpc.ClientConn
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var kind string
		var callers, wanted int
		var seconds float64
		if _, err := fmt.Sscan(lines.Text(), &kind, &callers, &wanted, &seconds); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		call, ok := kinds[kind]
		if !ok || callers < 1 || wanted < 1 {
			return fmt.Errorf("%q is no work", lines.Text())
		}
		for len(connections) < wanted {
			connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			connections = append(connections, connection)
		}
		brought := load(connections[:wanted], call, callers, time.Duration(seconds*float64(time.Second)))
		if err := json.NewEncoder(os.Stdout).Encode(brought); err != nil {
			return err
		}
	}
	return lines.Err()
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("bench_grpc serve|load")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:9091", "address to listen on")
	target := flags.String("target", "127.0.0.1:9091", "whom to ask")
	flags.Parse(os.Args[2:])
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(*listen)
	case "load":
		err = work(*target)
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}
