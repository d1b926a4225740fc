package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// summary is what a swarm prints when it is done, in the words of the load of net_http.
type summary struct {
	Sent       int64   `json:"sent"`
	Failed     int64   `json:"failed"`
	FirstError string  `json:"first_error"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"per_second"`
	P50Ms      float64 `json:"p50_ms"`
	P99Ms      float64 `json:"p99_ms"`

	Codes map[string]int64 `json:"codes"` // how many calls ended with each
}

// ledger counts calls by the code they ended with.
type ledger struct {
	mu    sync.Mutex
	codes map[string]int64
}

func (l *ledger) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.codes[codeOf(err)]++
}

// swarm opens a connection, makes one call and closes the connection, again and again.
func swarm(arguments []string) error {
	flags := flag.NewFlagSet("swarm", flag.ExitOnError)
	target := flags.String("target", "", "host:port")
	rate := flags.Int("rate", 1000, "connections a second")
	seconds := flags.Float64("seconds", 1, "for how long")
	stopped := flags.Bool("stopped", false, "stops itself (SIGSTOP) before it begins")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *stopped {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGSTOP); err != nil {
			return err
		}
	}
	enough, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var sent, failed atomic.Int64
	ended := ledger{codes: map[string]int64{}}
	var first sync.Once
	var firstError string
	total := int64(float64(*rate) * *seconds)
	start := time.Now()
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for enough.Err() == nil {
				turn := sent.Add(1)
				if turn > total {
					sent.Add(-1)
					return
				}
				time.Sleep(time.Until(start.Add(time.Duration(turn) * time.Second / time.Duration(*rate))))
				err := once(*target, turn)
				ended.note(err)
				if err != nil {
					failed.Add(1)
					first.Do(func() { firstError = err.Error() })
				}
			}
		})
	}
	group.Wait()
	taken := time.Since(start).Seconds()
	line, err := json.Marshal(summary{
		Sent: sent.Load(), Failed: failed.Load(), FirstError: firstError, Seconds: taken,
		PerSecond: float64(sent.Load()) / taken, Codes: ended.codes,
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", line)
	return nil
}

func once(target string, id int64) error {
	connection, err := dial(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return talk(ctx, connection, unary, fmt.Sprintf("/truth.unary.leaf/%d", id))
}
