// Echo is what tracing gRPC is measured on: an echo, and a client that asks it for as much as it can, or so many times
// a second.
//
//	echo serve -listen ADDRESS
//	echo load -target ADDRESS
//
// The client reads lines "KIND CALLERS CONNECTIONS SECONDS RATE" from standard input, where KIND is unary or chat, and
// prints a line of JSON for each when it is done: so it can be traced before it begins. Without a rate (0) each caller
// calls as soon as its last call is over. A chat is a stream that carries ten messages each way, one after the other.
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
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"bench/traced/rpc"

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
	server := grpc.NewServer(rpc.Server()...)
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
	Latency   latency `json:"latency"`
}

type latency struct {
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
}

// notes are what calls that overlap have brought.
type notes struct {
	mu     sync.Mutex
	times  []time.Duration
	failed int
}

func (n *notes) add(failed int, times ...time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed += failed
	n.times = append(n.times, times...)
}

func (n *notes) result(took time.Duration) result {
	slices.Sort(n.times)
	at := func(share float64) float64 {
		return n.times[int(share*float64(len(n.times)-1))].Seconds() * 1e3
	}
	return result{
		Requests:  len(n.times),
		Errors:    n.failed,
		PerSecond: float64(len(n.times)) / took.Seconds(),
		Latency:   latency{at(0.5), at(0.99), at(0.999)},
	}
}

// saturate lets callers call one after the other until the time is over.
func saturate(connections []*grpc.ClientConn, call call, callers int, duration time.Duration) result {
	var all notes
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
			all.add(failed, own...)
		})
	}
	done.Wait()
	return all.result(time.Since(begin))
}

// waiting is how many calls may be under way at a fixed rate: enough for a tenth of a second.
const waiting = 4096

// pace makes calls at a fixed rate, whether those before them are over or not. A call's time begins when it was due, so
// what waits for a stalled server, or here, is counted and not left out.
func pace(connections []*grpc.ClientConn, call call, rate float64, duration time.Duration) result {
	var all notes
	var done sync.WaitGroup
	count := int(rate * duration.Seconds())
	dues := make(chan time.Time, count)
	// Goroutines that stay: the stack of a new one would have to grow with each call.
	for caller := range min(waiting, count) {
		done.Go(func() {
			var own []time.Duration
			failed := 0
			for due := range dues {
				if call(context.Background(), connections[caller%len(connections)]) != nil {
					failed++
				}
				own = append(own, time.Since(due))
			}
			all.add(failed, own...)
		})
	}
	// Nanosleep is finer than Go's timers, which an idle scheduler rounds up to a millisecond.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Now()
	for number := range count {
		due := begin.Add(time.Duration(float64(number) / rate * float64(time.Second)))
		if early := time.Until(due); early > 0 {
			pause := syscall.NsecToTimespec(int64(max(early, 50*time.Microsecond)))
			syscall.Nanosleep(&pause, nil)
		}
		dues <- due
	}
	close(dues)
	done.Wait()
	return all.result(time.Since(begin))
}

// work does what the lines of standard input say. Connections are kept from one line to the next.
func work(target string) error {
	var connections []*grpc.ClientConn
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var kind string
		var callers, wanted int
		var seconds, rate float64
		if _, err := fmt.Sscan(lines.Text(), &kind, &callers, &wanted, &seconds, &rate); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		call, ok := kinds[kind]
		if !ok || callers < 1 || wanted < 1 {
			return fmt.Errorf("%q is no work", lines.Text())
		}
		for len(connections) < wanted {
			options := append(rpc.Client(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			connection, err := grpc.NewClient(target, options...)
			if err != nil {
				return err
			}
			connections = append(connections, connection)
		}
		duration := time.Duration(seconds * float64(time.Second))
		var brought result
		if rate > 0 {
			brought = pace(connections[:wanted], call, rate, duration)
		} else {
			brought = saturate(connections[:wanted], call, callers, duration)
		}
		if err := json.NewEncoder(os.Stdout).Encode(brought); err != nil {
			return err
		}
	}
	return lines.Err()
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("echo serve|load")
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
