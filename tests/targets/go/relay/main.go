// A service without any agent: answers with its name, or asks the next one first.
//
// The request says who is next: /relay?next=URL.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"
)

var client = &http.Client{Timeout: 10 * time.Second}

func relay(w http.ResponseWriter, r *http.Request) {
	body := "go"
	if next := r.URL.Query().Get("next"); next != "" {
		request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, next, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response, err := client.Do(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		rest, err := io.ReadAll(response.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		body += " " + string(rest)
	}
	fmt.Fprint(w, body)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/relay", relay)
	fmt.Printf("go listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
