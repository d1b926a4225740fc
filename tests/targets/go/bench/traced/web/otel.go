//go:build otel

// Package web is what a build adds to a program to trace its HTTP by itself: nothing, or an SDK.
package web

import (
	"net/http"

	_ "bench/traced/sdk"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// Handler is what the server hands its requests to.
func Handler(handler http.Handler) http.Handler { return otelhttp.NewHandler(handler, "server") }

// Transport is what the client makes its calls by.
func Transport(transport http.RoundTripper) http.RoundTripper {
	return otelhttp.NewTransport(transport)
}
