//go:build !otel

// Package rpc is what a build adds to a program to trace its gRPC by itself: nothing, or an SDK.
package rpc

import "google.golang.org/grpc"

// Server is what a server is made with.
func Server() []grpc.ServerOption { return nil }

// Client is what a client is made with.
func Client() []grpc.DialOption { return nil }
