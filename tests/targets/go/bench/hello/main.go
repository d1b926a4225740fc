// Hello is what tracing HTTP is measured on: a handler that answers with a few bytes, one that works a little first,
// and one that asks the next program first. None does more than that, so that what tracing costs shows most.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync/atomic"
	"time"

	"bench/traced/web"
)

// worked keeps the compiler from leaving the work out.
var worked atomic.Uint64

// work keeps the processor busy: each turn has to wait for the one before it.
func work(turns int) {
	x := uint64(turns)
	for range turns {
		x = x*6364136223846793005 + 1442695040888963407
	}
	worked.Store(x)
}

// calibrate tells how many turns take so long on this machine, at its best of many attempts.
func calibrate(duration time.Duration) int {
	const turns = 100_000
	best := time.Hour
	for range 200 {
		begin := time.Now()
		work(turns)
		best = min(best, time.Since(begin))
	}
	return int(turns * duration / best)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9090", "address to listen on")
	next := flag.String("next", "", "URL that /chain asks before it answers")
	turns := flag.Int("work", 0, "turns that /work takes before it answers")
	calibration := flag.Duration("calibrate", 0, "only print how many turns take so long")
	flag.Parse()
	if *calibration > 0 {
		fmt.Println(calibrate(*calibration))
		return
	}

	client := &http.Client{Transport: web.Transport(&http.Transport{MaxIdleConnsPerHost: 256})}
	hello := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello, world\n")
	}
	http.HandleFunc("/hello", hello)
	http.HandleFunc("/work", func(w http.ResponseWriter, r *http.Request) {
		work(*turns)
		hello(w, r)
	})
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
	log.Fatal(http.ListenAndServe(*listen, web.Handler(http.DefaultServeMux)))
}
