// truth is a net/http program that can play every part of a traced system and writes down what it did.
//
//	truth serve -name front -log FILE [-next URL]   a service: one route for each way of making calls
//	truth load -target URL -rate N -seconds N       a client that asks a service for a mix of all routes
//
// A service prints one line on its standard output, a JSON object with its addresses, and ends on SIGTERM.
// Each request served and each call made gets a line in the log: see truth.go.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: truth serve|load [flags]")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "load":
		err = load(os.Args[2:])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "truth: %v\n", err)
		os.Exit(1)
	}
}
