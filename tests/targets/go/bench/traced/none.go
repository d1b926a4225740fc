//go:build !otel

// Package traced is what a build of these programs adds to trace itself: nothing, or an SDK.
package traced

import (
	"net/http"

	"google.golang.org/grpc"
)

// Handler is what the server hands its requests to.
func Handler(handler http.Handler) http.Handler { return handler }

// Transport is what the client makes its calls by.
func Transport(transport http.RoundTripper) http.RoundTripper { return transport }

// Server is what a gRPC server is made with.
func Server() []grpc.ServerOption { return nil }

// Client is what a gRPC client is made with.
func Client() []grpc.DialOption { return nil }
