// rpc is a program that serves HTTP and gRPC at once, calls the next of its kind, and writes down what it did.
//
//	rpc serve -name front -log FILE [-next ADDRESSES]   a service: one route and one method for each way of calling
//	rpc swarm -target HOST:PORT -seconds N              a client that opens a connection for each of its calls
//
// Requests come as GET /SHAPE/ID, or as calls of the method /truth.KIND.SHAPE/ID, where KIND says which side streams:
// see shapes.go for what they do, and truth.go for the log. A service prints one line on its standard output, a JSON
// object with its addresses, and ends on SIGTERM.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: rpc serve|swarm [flags]")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "swarm":
		err = swarm(os.Args[2:])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "rpc: %v\n", err)
		os.Exit(1)
	}
}
