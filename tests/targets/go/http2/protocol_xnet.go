//go:build xnet

package main

import (
	"crypto/tls"
	"net"
	"net/http"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

// How services and the load speak to each other: here by the HTTP/2 of golang.org/x/net: without TLS by its own client
// and by its server behind a handler of net/http, over TLS as a part of net/http's.

func plainTransport(int) http.RoundTripper {
	return &http2.Transport{
		AllowHTTP: true,
		DialTLS: func(network, address string, _ *tls.Config) (net.Conn, error) {
			return net.Dial(network, address)
		},
	}
}

func secureTransport(perHost int, config *tls.Config) http.RoundTripper {
	transport := &http.Transport{MaxIdleConnsPerHost: perHost, TLSClientConfig: config}
	if err := http2.ConfigureTransport(transport); err != nil {
		panic(err)
	}
	return transport
}

// plainServer still takes HTTP/1.x, by which the harness asks.
func plainServer(server *http.Server) *http.Server {
	server.Handler = h2c.NewHandler(server.Handler, &http2.Server{IdleTimeout: server.IdleTimeout})
	return server
}

func secureServer(server *http.Server) *http.Server {
	if err := http2.ConfigureServer(server, nil); err != nil {
		panic(err)
	}
	return server
}
