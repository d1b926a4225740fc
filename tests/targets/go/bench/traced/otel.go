//go:build otel

// Package traced is what a build of these programs adds to trace itself: nothing, or an SDK.
package traced

import (
	"context"
	"log"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// The SDK as its documents set it up: every trace is sampled, batches go by gRPC to where OTEL_EXPORTER_OTLP_ENDPOINT
// says.
func init() {
	exporter, err := otlptracegrpc.New(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	otel.SetTracerProvider(trace.NewTracerProvider(trace.WithBatcher(exporter)))
	otel.SetTextMapPropagator(propagation.TraceContext{})
}

// Handler is what the server hands its requests to.
func Handler(handler http.Handler) http.Handler { return otelhttp.NewHandler(handler, "server") }

// Transport is what the client makes its calls by.
func Transport(transport http.RoundTripper) http.RoundTripper {
	return otelhttp.NewTransport(transport)
}

// Server is what a gRPC server is made with.
func Server() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler())}
}

// Client is what a gRPC client is made with.
func Client() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler())}
}
