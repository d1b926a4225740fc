package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/examples/features/proto/echo"
	"google.golang.org/grpc/status"
)

type server struct{ pb.UnimplementedEchoServer }

func (server) UnaryEcho(ctx context.Context, r *pb.EchoRequest) (*pb.EchoResponse, error) {
	if r.Message == "fail" {
		return nil, status.Error(codes.NotFound, "no such echo")
	}
	if r.Message == "slow" {
		time.Sleep(300 * time.Millisecond)
	}
	return &pb.EchoResponse{Message: r.Message}, nil
}

func (server) BidirectionalStreamingEcho(s pb.Echo_BidirectionalStreamingEchoServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&pb.EchoResponse{Message: r.Message}); err != nil {
			return err
		}
	}
}

func main() {
	serve := flag.String("serve", "", "")
	call := flag.String("call", "", "")
	web := flag.String("web", "", "")
	flag.Parse()
	if *serve != "" {
		l, err := net.Listen("tcp", *serve)
		if err != nil {
			log.Fatal(err)
		}
		s := grpc.NewServer()
		pb.RegisterEchoServer(s, server{})
		log.Fatal(s.Serve(l))
	}
	cc, err := grpc.Dial(*call, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	c := pb.NewEchoClient(cc)
	http.HandleFunc("/unary", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
		defer cancel()
		a, err := c.UnaryEcho(ctx, &pb.EchoRequest{Message: r.URL.Query().Get("m")})
		fmt.Fprintln(w, a, err)
	})
	http.HandleFunc("/bidi", func(w http.ResponseWriter, r *http.Request) {
		s, err := c.BidirectionalStreamingEcho(r.Context())
		if err != nil {
			fmt.Fprintln(w, err)
			return
		}
		for i := 0; i < 3; i++ {
			s.Send(&pb.EchoRequest{Message: "x"})
			s.Recv()
		}
		s.CloseSend()
		_, err = s.Recv()
		fmt.Fprintln(w, err)
	})
	log.Fatal(http.ListenAndServe(*web, nil))
}
