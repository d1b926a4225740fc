//go:build !otel

// Package web is what a build adds to a program to trace its HTTP by itself: nothing, or an SDK.
package web

import "net/http"

// Handler is what the server hands its requests to.
func Handler(handler http.Handler) http.Handler { return handler }

// Transport is what the client makes its calls by.
func Transport(transport http.RoundTripper) http.RoundTripper { return transport }
