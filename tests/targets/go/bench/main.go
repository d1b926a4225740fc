// Bench is what tracing is measured on: a handler that answers with a few bytes, and one that asks the next program
// first. Neither does any work of its own, so that what tracing costs shows most.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9090", "address to listen on")
	next := flag.String("next", "", "URL that /chain asks before it answers")
	flag.Parse()

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	hello := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello, world\n")
	}
	http.HandleFunc("/hello", hello)
	http.HandleFunc("/chain", func(w http.ResponseWriter, r *http.Request) {
		if *next != "" {
			request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, *next, nil)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			response, err := client.Do(request)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			defer response.Body.Close()
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
		}
		hello(w, r)
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
