package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// headersMax is what a service takes in one request's metadata.
const headersMax = 1 << 20

// addresses are where one service listens.
type addresses struct {
	Main  string `json:"main"`  // base URL, HTTP
	RPC   string `json:"rpc"`   // host:port, gRPC
	Unix  string `json:"unix"`  // socket's path, gRPC
	Brief string `json:"brief"` // host:port, gRPC: asks clients to leave after a moment, and serves by few goroutines
	Web   string `json:"web"`   // host:port, gRPC: served by net/http, with the gRPC server as its handler
	TLS   string `json:"tls"`   // host:port, gRPC over TLS
	Frail string `json:"frail"` // host:port, gRPC: where connections break
}

// node is one service.
type node struct {
	service string
	journal *journal
	caller  *caller
	own     addresses
	next    addresses
	pool    pool
	flaky   sync.Map // id → struct{}: calls that have failed once

	// To the next service, one for each way of dialling.
	plain, retrying, brief, frail, handler, secret, unix, dns, passthrough, closed, noHost, never line

	plainOptions []grpc.DialOption
	frailPort    *frailListener

	left sync.WaitGroup // methods that run, and goroutines that requests have left behind

	mu     sync.Mutex
	server *grpc.Server // on the main port
}

func (n *node) background(work func()) {
	n.left.Add(1)
	go func() {
		defer n.left.Done()
		work()
	}()
}

// mux routes /NAME/… to the shape NAME and writes each request down.
func (n *node) mux() http.Handler {
	mux := http.NewServeMux()
	for name, serve := range n.shapes() {
		mux.HandleFunc("/"+name+"/", func(w http.ResponseWriter, r *http.Request) {
			note := record{
				ID: idOf(r.URL.Path), Kind: "entry", Service: n.service, Method: r.Method,
				Path: r.URL.Path, Shape: name, StartNs: now(),
			}
			note.Status = http.StatusOK
			if err := serve(r.Context(), note.ID); err != nil {
				note.Status = http.StatusGatewayTimeout
				http.Error(w, err.Error(), note.Status)
			}
			note.EndNs = now()
			n.journal.write(note)
		})
	}
	// The harness asks for the log on disk, and for a goroutine's end to be waited for.
	mux.HandleFunc("/flush", func(w http.ResponseWriter, r *http.Request) {
		n.left.Wait()
		if err := n.journal.flush(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	// And for another server on the same port.
	mux.HandleFunc("/restart", func(w http.ResponseWriter, r *http.Request) {
		if err := n.restart(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// serveRPC serves any method /truth.KIND.SHAPE/ID and writes it down.
func (n *node) serveRPC(shapes map[string]shape) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		path, _ := grpc.MethodFromServerStream(stream)
		service, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		parts := strings.Split(service, ".")
		if len(parts) != 3 || shapes[parts[2]] == nil {
			return status.Error(codes.Unimplemented, path)
		}
		// A client may be gone long before its call is.
		n.left.Add(1)
		defer n.left.Done()
		note := record{
			ID: idOf(path), Kind: "entry", Service: n.service, RPC: parts[1], Path: path, Shape: parts[2],
			StartNs: now(), tally: &tally{},
		}
		stream = &serverCount{stream, note.tally}
		err := n.answer(stream, kind(parts[1]), func(ctx context.Context) error { return shapes[parts[2]](ctx, note.ID) })
		note.EndNs = now()
		note.Code = codeOf(err)
		messages := note.tally.result()
		note.Messages = &messages
		n.journal.write(note)
		return err
	}
}

// answer takes what the kind of call sends, works, and sends what it wants.
func (n *node) answer(stream grpc.ServerStream, k kind, work func(context.Context) error) error {
	fail := func(err error) error { return status.FromContextError(err).Err() }
	if k == chat {
		// The answers come while the questions do; the work is done between the first two.
		for first := true; ; first = false {
			in := &wrapperspb.BytesValue{}
			if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if first {
				if err := work(stream.Context()); err != nil {
					return asStatus(err, fail)
				}
			}
			if err := stream.SendMsg(in); err != nil {
				return err
			}
		}
	}
	for {
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := work(stream.Context()); err != nil {
		return asStatus(err, fail)
	}
	sent := 1
	if k == download {
		sent = messages
	}
	for range sent {
		if err := stream.SendMsg(message()); err != nil {
			return err
		}
	}
	return nil
}

// asStatus leaves an error that has a status as it is.
func asStatus(err error, otherwise func(error) error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return otherwise(err)
}

// echo is a service as a compiler would have made it.
type echo interface{ echo() }

type echoServer struct{}

func (echoServer) echo() {}

func (n *node) echoDesc() *grpc.ServiceDesc {
	stream := func(k kind) grpc.StreamDesc {
		desc := *k.desc()
		desc.StreamName = strings.ToUpper(string(k[:1])) + string(k[1:])
		desc.Handler = func(_ any, stream grpc.ServerStream) error {
			return n.answer(stream, k, func(ctx context.Context) error { return n.relay(ctx, k) })
		}
		return desc
	}
	return &grpc.ServiceDesc{
		ServiceName: "demo.Echo",
		HandlerType: (*echo)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Unary",
			Handler: func(server any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
				in := &wrapperspb.BytesValue{}
				if err := decode(in); err != nil {
					return nil, err
				}
				handler := func(ctx context.Context, in any) (any, error) { return in, n.relay(ctx, unary) }
				if interceptor == nil {
					return handler(ctx, in)
				}
				return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: server, FullMethod: "/demo.Echo/Unary"}, handler)
			},
		}},
		Streams: []grpc.StreamDesc{stream(upload), stream(download), stream(chat)},
	}
}

// relay hands a call of demo.Echo on, unless this is the last service. Nothing of it is written down.
func (n *node) relay(ctx context.Context, k kind) error {
	if n.next == (addresses{}) {
		return nil
	}
	return talk(ctx, n.plain, k, echoMethod(k))
}

func echoMethod(k kind) string {
	return "/demo.Echo/" + strings.ToUpper(string(k[:1])) + string(k[1:])
}

type seen struct{}

// newServer makes a server with interceptors, as most have them.
func (n *node) newServer(options ...grpc.ServerOption) *grpc.Server {
	server := grpc.NewServer(append(options,
		grpc.MaxHeaderListSize(headersMax),
		grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(context.WithValue(ctx, seen{}, true), in)
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(server, &seenStream{stream, context.WithValue(stream.Context(), seen{}, true)})
		}),
		grpc.UnknownServiceHandler(n.serveRPC(n.shapes())),
	)...)
	server.RegisterService(n.echoDesc(), echoServer{})
	return server
}

// seenStream is what an interceptor makes of a stream.
type seenStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *seenStream) Context() context.Context { return s.ctx }

// restart lets the server on the main port end what it has begun, and puts another in its place.
func (n *node) restart() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.server
	listener, err := listenAgain(n.own.RPC)
	if err != nil {
		return err
	}
	n.server = n.newServer()
	go n.server.Serve(listener)
	old.GracefulStop()
	return nil
}

// listenAgain listens where somebody listens already, so that nobody is refused in between.
func listenAgain(address string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		const reusePort = 15
		var failed error
		if err := raw.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1)
		}); err != nil {
			return err
		}
		return failed
	}}
	return config.Listen(context.Background(), "tcp", address)
}

const retries = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.002s",
	"maxBackoff": "0.01s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// dial makes a connection, with interceptors, as most have them.
func dial(target string, options ...grpc.DialOption) (line, error) {
	connection, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, in, out any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			return invoke(context.WithValue(ctx, seen{}, true), method, in, out, connection, options...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, connection *grpc.ClientConn, method string, streamer grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(context.WithValue(ctx, seen{}, true), desc, connection, method, options...)
		}),
	}, options...)...)
	return line{ClientConn: connection}, err
}

// silent resolves names of its scheme never.
type silent struct{}

func (silent) Scheme() string { return "never" }

func (silent) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return silent{}, nil
}

func (silent) ResolveNow(resolver.ResolveNowOptions) {}
func (silent) Close()                                {}

// dialAll dials the next service in each way there is.
func (n *node) dialAll() error {
	_, port, err := net.SplitHostPort(n.next.RPC)
	if err != nil {
		return err
	}
	closed, err := closedPort()
	if err != nil {
		return err
	}
	for _, way := range []struct {
		line    *line
		target  string
		options []grpc.DialOption
	}{
		{&n.plain, n.next.RPC, n.plainOptions},
		{&n.retrying, n.next.RPC, []grpc.DialOption{grpc.WithDefaultServiceConfig(retries)}},
		{&n.brief, n.next.Brief, nil},
		{&n.frail, n.next.Frail, nil},
		{&n.handler, n.next.Web, nil},
		{&n.secret, n.next.TLS, []grpc.DialOption{grpc.WithTransportCredentials(secretClient())}},
		{&n.unix, "unix://" + n.next.Unix, nil},
		{&n.dns, "dns:///localhost:" + port, nil},
		{&n.passthrough, "passthrough:///" + n.next.RPC, nil},
		{&n.closed, closed, nil},
		{&n.noHost, "dns:///no-such-host.invalid:1", nil},
		{&n.never, "never:///anything", nil},
	} {
		if *way.line, err = dial(way.target, way.options...); err != nil {
			return err
		}
	}
	n.unix.bare = true
	return nil
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	name := flags.String("name", "service", "the service's name in its log")
	logPath := flags.String("log", "", "file for the log")
	firstID := flags.Uint64("first-id", 0, "calls are numbered from here on")
	next := flags.String("next", "", "what the next service printed when it started")
	record := flags.String("record", "", "folder for what the connections to the next service's main port carry")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	resolver.Register(silent{})
	// Before anything that says that it has started.
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	journal, err := openJournal(*logPath)
	if err != nil {
		return err
	}
	n := &node{
		service: *name, journal: journal, caller: newCaller(*name, *firstID, journal), pool: newPool(8),
	}
	if *next != "" {
		if err := json.Unmarshal([]byte(*next), &n.next); err != nil {
			return fmt.Errorf("-next: %w", err)
		}
		if *record != "" {
			n.plainOptions = append(n.plainOptions, (&recorder{folder: *record}).option())
		}
		if err := n.dialAll(); err != nil {
			return err
		}
	}

	if err := n.listen(filepath.Dir(*logPath)); err != nil {
		return err
	}
	line, err := json.Marshal(n.own)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", line)

	<-ended.Done()
	n.left.Wait()
	return journal.close()
}

// listen opens all ports and begins to serve.
func (n *node) listen(folder string) error {
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	plain, err := listenAgain("127.0.0.1:0")
	if err != nil {
		return err
	}
	brief, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	frail, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	n.frailPort = &frailListener{Listener: frail}
	handler, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	credentials, err := secretServer()
	if err != nil {
		return err
	}
	n.own = addresses{
		Main: "http://" + web.Addr().String(), RPC: plain.Addr().String(), Brief: brief.Addr().String(),
		Frail: frail.Addr().String(), Web: handler.Addr().String(), TLS: secret.Addr().String(), Unix: filepath.Join(folder, "rpc.sock"),
	}
	local, err := net.Listen("unix", n.own.Unix)
	if err != nil {
		return err
	}
	n.server = n.newServer()
	go n.server.Serve(plain)
	go n.newServer().Serve(local)
	go n.newServer().Serve(n.frailPort)
	go n.newServer(grpc.Creds(credentials)).Serve(secret)
	go n.newServer(
		grpc.NumStreamWorkers(4),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: 100 * time.Millisecond, MaxConnectionAgeGrace: 5 * time.Second,
		}),
	).Serve(brief)
	var unencrypted http.Protocols
	unencrypted.SetUnencryptedHTTP2(true)
	go (&http.Server{Handler: n.newServer(), Protocols: &unencrypted}).Serve(handler)
	go (&http.Server{Handler: n.mux(), ErrorLog: log.New(io.Discard, "", 0)}).Serve(web)
	return nil
}
