// The visitor of the demo shop: asks the gateway once a second, for those who have no browser at hand.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
	"time"
)

func main() {
	gateway := flag.String("gateway", "http://127.0.0.1:9080", "base URL of the gateway")
	flag.Parse()
	client := &http.Client{Timeout: 10 * time.Second}
	for visit := 1; ; visit++ {
		path := "/profile"
		// Each fifth asks for what the order service has not: an error on its way back by gRPC and HTTP.
		if visit%5 == 0 {
			path = "/recommendations"
		}
		response, err := client.Get(*gateway + path)
		if err != nil {
			log.Printf("visitor: %v", err)
		} else {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			log.Printf("visitor: %s %s", path, response.Status)
		}
		time.Sleep(time.Second)
	}
}
