// The gateway of the demo shop: what the browser talks to.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"time"
)

type gateway struct {
	users  string
	orders string
	client *http.Client
}

// profile shows the user named by the parameter user, 42 where there is none.
func (g *gateway) profile(w http.ResponseWriter, r *http.Request) {
	g.relay(w, r, g.users+"/users/"+userOf(r))
}

// recommendations asks the order service, which has none: an error to be seen along the whole way.
func (g *gateway) recommendations(w http.ResponseWriter, r *http.Request) {
	g.relay(w, r, g.orders+"/recommendations/"+userOf(r))
}

func userOf(r *http.Request) string {
	if user := r.URL.Query().Get("user"); user != "" {
		return url.PathEscape(user)
	}
	return "42"
}

func (g *gateway) relay(w http.ResponseWriter, r *http.Request, target string) {
	body, status, err := g.fetch(r.Context(), target)
	if err != nil {
		log.Printf("%s: %v", r.URL.Path, err)
		http.Error(w, "a service did not answer", http.StatusBadGateway)
		return
	}
	if status != http.StatusOK {
		http.Error(w, fmt.Sprintf("a service answered %d", status), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(body); err != nil {
		log.Printf("%s: %v", r.URL.Path, err)
	}
}

func (g *gateway) fetch(ctx context.Context, target string) ([]byte, int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, 0, err
	}
	response, err := g.client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return body, response.StatusCode, err
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9080", "address to listen on")
	users := flag.String("users", "http://127.0.0.1:9081", "base URL of the user service")
	orders := flag.String("orders", "http://127.0.0.1:9082", "base URL of the order service")
	flag.Parse()

	g := &gateway{users: *users, orders: *orders, client: &http.Client{Timeout: 5 * time.Second}}
	mux := http.NewServeMux()
	mux.HandleFunc("/profile", g.profile)
	mux.HandleFunc("/recommendations", g.recommendations)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("gateway: %v", err)
	}
	fmt.Printf("gateway listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, mux))
}
