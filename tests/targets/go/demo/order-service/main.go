// The order service of the demo shop: what a user has bought, and what they might buy next.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"net/http"
	"strconv"
	"time"
)

type order struct {
	Number int    `json:"number"`
	Item   string `json:"item"`
	Cents  int    `json:"cents"`
}

var items = []string{"kettle", "lamp", "bicycle bell", "notebook", "umbrella", "teapot"}

// ordersOf makes up the orders of a user: the same ones each time they are asked for.
func ordersOf(user int) []order {
	random := rand.New(rand.NewSource(int64(user)))
	orders := make([]order, 1+random.Intn(4))
	for i := range orders {
		orders[i] = order{
			Number: 1000*user + i,
			Item:   items[random.Intn(len(items))],
			Cents:  500 + random.Intn(9500),
		}
	}
	return orders
}

func listOrders(w http.ResponseWriter, r *http.Request) {
	user, err := strconv.Atoi(r.URL.Query().Get("user"))
	if err != nil {
		http.Error(w, "the parameter user is not a number", http.StatusBadRequest)
		return
	}
	queryDatabase()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(ordersOf(user)); err != nil {
		log.Printf("list orders: %v", err)
	}
}

// recommend is the shop's broken corner: the model that would answer has never been trained.
func recommend(w http.ResponseWriter, r *http.Request) {
	queryDatabase()
	http.Error(w, "no recommendation model is loaded", http.StatusServiceUnavailable)
}

// queryDatabase stands for the time that a query would take.
func queryDatabase() {
	time.Sleep(2*time.Millisecond + time.Duration(rand.Intn(3000))*time.Microsecond)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9082", "address to listen on")
	flag.Parse()

	mux := http.NewServeMux()
	mux.HandleFunc("/orders", listOrders)
	mux.HandleFunc("/recommendations/", recommend)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("order-service: %v", err)
	}
	fmt.Printf("order-service listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, mux))
}
