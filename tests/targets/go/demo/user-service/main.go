// The user service of the demo shop: who a user is, with their orders from the order service.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"
)

type user struct {
	ID     int             `json:"id"`
	Name   string          `json:"name"`
	Orders json.RawMessage `json:"orders"`
}

var names = []string{"Ada", "Barbara", "Edsger", "Frances", "Grace", "Ken", "Leslie", "Margaret"}

type service struct {
	orders string
	client *http.Client
}

func (s *service) getUser(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id <= 0 {
		http.NotFound(w, r)
		return
	}
	// The time that a look-up in a cache would take.
	time.Sleep(500 * time.Microsecond)

	orders, err := s.fetchOrders(r.Context(), id)
	if err != nil {
		log.Printf("user %d: %v", id, err)
		http.Error(w, "the order service did not answer", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	answer := user{ID: id, Name: names[id%len(names)], Orders: orders}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Printf("user %d: %v", id, err)
	}
}

func (s *service) fetchOrders(ctx context.Context, id int) ([]byte, error) {
	url := fmt.Sprintf("%s/orders?user=%d", s.orders, id)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the order service answered %s", response.Status)
	}
	return io.ReadAll(response.Body)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9081", "address to listen on")
	orders := flag.String("orders", "http://127.0.0.1:9082", "base URL of the order service")
	flag.Parse()

	s := &service{orders: *orders, client: &http.Client{Timeout: 5 * time.Second}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", s.getUser)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("user-service: %v", err)
	}
	fmt.Printf("user-service listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, mux))
}
