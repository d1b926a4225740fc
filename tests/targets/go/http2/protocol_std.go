//go:build !xnet

package main

import (
	"crypto/tls"
	"net/http"
)

// How services and the load speak to each other: here by the HTTP/2 of net/http, also without TLS, which takes Go 1.24.
// The rest of this program is that of ../net_http.

func plainTransport(perHost int) http.RoundTripper {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{MaxIdleConnsPerHost: perHost, Protocols: protocols}
}

func secureTransport(perHost int, config *tls.Config) http.RoundTripper {
	return &http.Transport{MaxIdleConnsPerHost: perHost, TLSClientConfig: config, ForceAttemptHTTP2: true}
}

// plainServer still takes HTTP/1.x, by which the harness asks.
func plainServer(server *http.Server) *http.Server {
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return server
}

func secureServer(server *http.Server) *http.Server { return server }
