// The gateway of the demo shop: what the browser talks to.
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type gateway struct {
	users  string
	client *http.Client
	orders *grpc.ClientConn
}

type profile struct {
	User     json.RawMessage `json:"user"`
	Delivery string          `json:"delivery"`
}

// profile shows a user, as the user service tells it by HTTP, and what is on its way to them, as the order service
// tells it by gRPC.
func (g *gateway) profile(w http.ResponseWriter, r *http.Request) {
	id := userOf(r)
	user, err := g.fetch(r.Context(), fmt.Sprintf("%s/users/%d", g.users, id))
	if err != nil {
		fail(w, r, err)
		return
	}
	delivery, err := g.ask(r.Context(), "NextDelivery", id)
	if err != nil {
		fail(w, r, err)
		return
	}
	answer(w, r, profile{User: user, Delivery: delivery})
}

// recommendations asks the order service, which has none: an error to be seen along the whole way.
func (g *gateway) recommendations(w http.ResponseWriter, r *http.Request) {
	recommended, err := g.ask(r.Context(), "Recommend", userOf(r))
	if err != nil {
		fail(w, r, err)
		return
	}
	answer(w, r, recommended)
}

// userOf is the user that the parameter user names, 42 where there is none.
func userOf(r *http.Request) int64 {
	if user, err := strconv.ParseInt(r.URL.Query().Get("user"), 10, 64); err == nil {
		return user
	}
	return 42
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	log.Printf("%s: %v", r.URL.Path, err)
	http.Error(w, "a service did not answer as it should", http.StatusBadGateway)
}

func answer(w http.ResponseWriter, r *http.Request, what any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(what); err != nil {
		log.Printf("%s: %v", r.URL.Path, err)
	}
}

// ask calls a method of the order service.
func (g *gateway) ask(ctx context.Context, method string, user int64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out := &wrapperspb.StringValue{}
	err := g.orders.Invoke(ctx, "/shop.Orders/"+method, wrapperspb.Int64(user), out)
	return out.GetValue(), err
}

func (g *gateway) fetch(ctx context.Context, target string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	response, err := g.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", target, response.Status)
	}
	return io.ReadAll(response.Body)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9080", "address to listen on")
	users := flag.String("users", "http://127.0.0.1:9081", "base URL of the user service")
	orders := flag.String("orders", "127.0.0.1:9083", "where the order service serves gRPC")
	flag.Parse()

	connection, err := grpc.NewClient(*orders, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatalf("gateway: %v", err)
	}
	g := &gateway{users: *users, client: &http.Client{Timeout: 5 * time.Second}, orders: connection}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /profile", g.profile)
	mux.HandleFunc("GET /recommendations", g.recommendations)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("gateway: %v", err)
	}
	fmt.Printf("gateway listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, mux))
}
