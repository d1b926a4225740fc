package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// How answers end otherwise than by being whole, and what may follow a whole one.

// connectionKey is the key of a request's connection in its context.
type connectionKey struct{}

// keepConnection lets handlers find their connection.
func keepConnection(server *http.Server) *http.Server {
	server.ConnContext = func(ctx context.Context, connection net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, connection)
	}
	return server
}

// broken ends the connection instead of answering, and with it all that is under way on it.
func (n *node) broken(w http.ResponseWriter, r *http.Request, id uint64) int {
	r.Context().Value(connectionKey{}).(net.Conn).Close()
	return 0
}

// torn begins to answer and does not come to an end.
func (n *node) torn(w http.ResponseWriter, r *http.Request, id uint64) int {
	fmt.Fprintf(w, "torn %d\n", id)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// parting answers, and wants the connection to be used no more: by HTTP/2 that is a GOAWAY.
func (n *node) parting(w http.ResponseWriter, r *http.Request, id uint64) int {
	w.Header().Set("Connection", "close")
	fmt.Fprintf(w, "parting %d\n", id)
	return http.StatusOK
}

// trailed reads a body with a trailer and says in a trailer of its own how long it was.
func (n *node) trailed(w http.ResponseWriter, r *http.Request, id uint64) int {
	w.Header().Set("Trailer", "X-Length")
	length, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return 0
	}
	if r.Trailer.Get("X-Length") != strconv.FormatInt(length, 10) {
		http.Error(w, "no trailer", http.StatusBadRequest)
		return http.StatusBadRequest
	}
	fmt.Fprintf(w, "trailed %d\n", id)
	w.Header().Set("X-Length", r.Trailer.Get("X-Length"))
	return http.StatusOK
}

// === Calls that meet with that ===

// Connections that break, and those that are left, are not those of other calls.
func (n *node) byFrail() (*http.Client, string) { return n.caller.frail, n.next.Main }

func (n *node) answeredBy(name string, by way, route string) func(r *http.Request, id uint64) error {
	return func(r *http.Request, id uint64) error {
		client, base := by()
		return n.caller.get(r.Context(), client, intent{id, name, mustFind}, base, route)
	}
}

// part makes calls whose connections are to be left, the next of which may be under way already.
func (n *node) part(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.parting, intent{id, "part", mustFind}, n.next.Main, "/parting/")
}

// trailers has a body of unknown length with a trailer, and wants one back.
func (n *node) trailers(r *http.Request, id uint64) error {
	// Without a body there is no trailer.
	body := append(randomBody(), 'x')
	path := "/trailed/" + n.caller.announce(intent{id, "trailers", mustFind})
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, n.next.Main+path,
		struct{ io.Reader }{bytes.NewReader(body)})
	if err != nil {
		return err
	}
	request.Trailer = http.Header{"X-Length": {strconv.Itoa(len(body))}}
	response, err := n.caller.plain.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.Trailer.Get("X-Length") != strconv.Itoa(len(body)) {
		return errors.New("no trailer came back")
	}
	return nil
}
