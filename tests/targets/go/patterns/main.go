// patterns is a service whose routes are named by patterns, as net/http has them from Go 1.22 on.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()

	answer := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.Pattern) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{name}", answer)
	mux.HandleFunc("POST /users/{name}/orders/{order}", answer)
	mux.HandleFunc("/files/{path...}", answer)
	mux.HandleFunc("/static/", answer)
	mux.HandleFunc("GET /{$}", answer)

	// A mux within a mux: the inner one's pattern is the more precise.
	admin := http.NewServeMux()
	admin.HandleFunc("GET /admin/rooms/{room}", answer)
	mux.Handle("/admin/", admin)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("patterns listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, mux))
}
