// wire is a client that sends the same requests each time it is run: what a recorder has noted of two runs can be
// compared byte by byte. It calls the routes /echo/N, /blob/N and /upgrade/N of the truth service.
//
//	wire -target URL -seed N -workers N -what one|plain|download|upgrade|raw|connect
//
// It checks every answer, prints "done N" after N of them, and fails if one was not what it had to be.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	target := flag.String("target", "", "base URL of the service")
	secure := flag.String("secure", "", "base URL of its TLS port")
	seed := flag.Int64("seed", 1, "decides about all requests")
	workers := flag.Int("workers", 1, "requests at a time")
	what := flag.String("what", "plain", "one, plain, download, upgrade, raw or connect")
	wait := flag.Duration("wait", 0, "for how long it does nothing at first")
	flag.Parse()
	time.Sleep(*wait)

	var done int
	var err error
	switch *what {
	case "one":
		done, err = 1, one(newClient(1), steps()[0], *target, *seed, 0)
	case "plain":
		done, err = plain(*target, *seed, *workers)
	case "download":
		done, err = download(*target, *seed, *workers)
	case "upgrade":
		done, err = upgrade(*target, *seed)
	case "raw":
		done, err = raw(*target, *seed)
	case "connect":
		done, err = connect(*target, *secure)
	default:
		err = fmt.Errorf("unknown -what %q", *what)
	}
	if err != nil {
		fmt.Printf("failed: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("done %d\n", done)
}
