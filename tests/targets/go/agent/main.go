// agent is a service that traces itself: a probe has to leave it alone.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/SkyAPM/go2sky"
)

func main() {
	tracer := go2sky.NewTracer()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("agent listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "span %d\n", tracer.CreateEntrySpan())
	})))
}
