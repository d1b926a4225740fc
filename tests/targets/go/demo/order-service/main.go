// The order service of the demo shop: what a user has bought, by HTTP; what is on its way to them and what they might
// buy next, by gRPC.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
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

// ordersServer is what a compiler of .proto files would have made of
//
//	service Orders {
//	  rpc NextDelivery(google.protobuf.Int64Value) returns (google.protobuf.StringValue);
//	  rpc Recommend(google.protobuf.Int64Value) returns (google.protobuf.StringValue);
//	}
type ordersServer interface {
	NextDelivery(ctx context.Context, user *wrapperspb.Int64Value) (*wrapperspb.StringValue, error)
	Recommend(ctx context.Context, user *wrapperspb.Int64Value) (*wrapperspb.StringValue, error)
}

type method = func(ordersServer, context.Context, *wrapperspb.Int64Value) (*wrapperspb.StringValue, error)

func describe(name string, call method) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			user := &wrapperspb.Int64Value{}
			if err := decode(user); err != nil {
				return nil, err
			}
			return call(server.(ordersServer), ctx, user)
		},
	}
}

var ordersDesc = grpc.ServiceDesc{
	ServiceName: "shop.Orders",
	HandlerType: (*ordersServer)(nil),
	Methods: []grpc.MethodDesc{
		describe("NextDelivery", ordersServer.NextDelivery),
		describe("Recommend", ordersServer.Recommend),
	},
}

type orders struct{}

func (orders) NextDelivery(_ context.Context, user *wrapperspb.Int64Value) (*wrapperspb.StringValue, error) {
	queryDatabase()
	next := ordersOf(int(user.GetValue()))[0]
	return wrapperspb.String(fmt.Sprintf("order %d, a %s, comes tomorrow", next.Number, next.Item)), nil
}

// Recommend is the shop's broken corner: the model that would answer has never been trained.
func (orders) Recommend(context.Context, *wrapperspb.Int64Value) (*wrapperspb.StringValue, error) {
	queryDatabase()
	return nil, status.Error(codes.Unavailable, "no recommendation model is loaded")
}

// queryDatabase stands for the time that a query would take.
func queryDatabase() {
	time.Sleep(2*time.Millisecond + time.Duration(rand.Intn(3000))*time.Microsecond)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9082", "address to listen on, for HTTP")
	listenRPC := flag.String("listen-rpc", "127.0.0.1:9083", "address to listen on, for gRPC")
	flag.Parse()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", listOrders)
	server := grpc.NewServer()
	server.RegisterService(&ordersDesc, orders{})

	web, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("order-service: %v", err)
	}
	rpc, err := net.Listen("tcp", *listenRPC)
	if err != nil {
		log.Fatalf("order-service: %v", err)
	}
	fmt.Printf("order-service listens on http://%s\n", web.Addr())
	fmt.Printf("order-service serves gRPC on %s\n", rpc.Addr())
	go func() { log.Fatal(server.Serve(rpc)) }()
	log.Fatal(http.Serve(web, mux))
}
