package main

import (
	"crypto/tls"
	"net/http"
)

// How services and the load speak to each other: here by HTTP/1.x.

// plainTransport makes calls without TLS.
func plainTransport(perHost int) http.RoundTripper {
	return &http.Transport{MaxIdleConnsPerHost: perHost}
}

// secureTransport makes calls over TLS.
func secureTransport(perHost int, config *tls.Config) http.RoundTripper {
	return &http.Transport{MaxIdleConnsPerHost: perHost, TLSClientConfig: config}
}

// plainServer prepares a server that listens without TLS.
func plainServer(server *http.Server) *http.Server { return server }

// secureServer prepares one that listens over TLS.
func secureServer(server *http.Server) *http.Server {
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	return server
}
