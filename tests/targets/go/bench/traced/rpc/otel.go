//go:build otel

// Package rpc is what a build adds to a program to trace its gRPC by itself: nothing, or an SDK.
package rpc

import (
	_ "bench/traced/sdk"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
)

// Server is what a server is made with.
func Server() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler())}
}

// Client is what a client is made with.
func Client() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler())}
}
