package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// mix is what the load asks for, with how often out of the sum.
var mix = []struct {
	shape  string
	weight int
}{
	{"leaf", 20}, {"sync", 20}, {"bare", 10}, {"values", 5}, {"deadline", 5}, {"chain", 8}, {"twice", 5},
	{"redirect", 4}, {"retry", 4}, {"post", 4}, {"chunked", 3}, {"tls", 4}, {"proxy", 6}, {"via_proxy", 2},
	{"fanout_ctx", 4}, {"fanout", 4}, {"fanout_deep", 2}, {"pool_ctx", 6}, {"pool", 4}, {"pool_lazy", 3},
	{"behind", 4}, {"behind_tls", 2}, {"behind_twice", 2}, {"trailers", 2}, {"part", 2}, {"reset", 1}, {"tear", 1}, {"break", 1},
	{"overlap", 3}, {"outlive", 3}, {"outlive_ctx", 3}, {"timeout", 1}, {"cancel", 1}, {"refused", 2},
	{"tls_bad", 1}, {"failed", 2}, {"stream", 1}, {"panic", 1}, {"goexit", 1}, {"hijack", 1},
	{"+pipeline", 2}, {"+http10", 2}, {"+gone", 1}, {"+late", 3}, {"+post", 3},
}

// summary is what the load prints when it is done.
type summary struct {
	Sent       int64   `json:"sent"`
	Failed     int64   `json:"failed"`
	FirstError string  `json:"first_error"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"per_second"`
	P50Ms      float64 `json:"p50_ms"`
	P99Ms      float64 `json:"p99_ms"`
}

type loader struct {
	target addresses
	client *http.Client
	lastID atomic.Uint64

	sent   atomic.Int64
	failed atomic.Int64

	mu         sync.Mutex
	firstError string
	taken      []time.Duration
}

func load(arguments []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	target := flags.String("target", "", "what the service printed when it started")
	rate := flags.Int("rate", 100, "requests a second")
	seconds := flags.Float64("seconds", 1, "for how long")
	workers := flags.Int("workers", 64, "requests in flight at most")
	firstID := flags.Uint64("first-id", 0, "requests are numbered from here on")
	only := flags.String("shapes", "", "ask for these alone, separated by commas")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	l := &loader{client: &http.Client{
		Transport: plainTransport(*workers),
		Timeout:   20 * time.Second,
	}}
	l.lastID.Store(*firstID)
	if err := json.Unmarshal([]byte(*target), &l.target); err != nil {
		return fmt.Errorf("-target: %w", err)
	}

	deck := shuffledDeck(*only)
	total := int(float64(*rate) * *seconds)
	turns := make(chan int, total)
	var group sync.WaitGroup
	for i := 0; i < *workers; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for turn := range turns {
				l.ask(deck[turn%len(deck)])
			}
		}()
	}
	enough, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	start := time.Now()
	for turn := 0; turn < total && enough.Err() == nil; {
		due := int(time.Since(start).Seconds() * float64(*rate))
		for ; turn < due && turn < total; turn++ {
			turns <- turn
		}
		time.Sleep(time.Millisecond)
	}
	close(turns)
	group.Wait()
	return l.print(time.Since(start))
}

func shuffledDeck(only string) []string {
	var deck []string
	for _, m := range mix {
		if only == "" {
			for i := 0; i < m.weight; i++ {
				deck = append(deck, m.shape)
			}
		}
	}
	if only != "" {
		deck = strings.Split(only, ",")
	}
	rand.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

func (l *loader) print(taken time.Duration) error {
	sort.Slice(l.taken, func(i, j int) bool { return l.taken[i] < l.taken[j] })
	at := func(part float64) float64 {
		if len(l.taken) == 0 {
			return 0
		}
		return float64(l.taken[int(part*float64(len(l.taken)-1))].Microseconds()) / 1000
	}
	line, err := json.Marshal(summary{
		Sent: l.sent.Load(), Failed: l.failed.Load(), FirstError: l.firstError,
		Seconds: taken.Seconds(), PerSecond: float64(l.sent.Load()) / taken.Seconds(),
		P50Ms: at(0.5), P99Ms: at(0.99),
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", line)
	return nil
}

func (l *loader) ask(shape string) {
	start := time.Now()
	var err error
	switch shape {
	case "+pipeline":
		err = l.pipeline()
	case "+http10":
		err = l.raw(1, "GET /sync/%d HTTP/1.0\r\n\r\n")
	case "+gone":
		l.gone()
	case "+late":
		err = l.get(l.target.Late, "sync")
	case "+post":
		err = l.post()
	default:
		err = l.get(l.target.Main, shape)
	}
	if err != nil {
		l.failed.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = append(l.taken, time.Since(start))
	if err != nil && l.firstError == "" {
		l.firstError = shape + ": " + err.Error()
	}
}

func (l *loader) id() uint64 {
	l.sent.Add(1)
	return l.lastID.Add(1)
}

func (l *loader) get(base, shape string) error {
	response, err := l.client.Get(fmt.Sprintf("%s/%s/%d", base, shape, l.id()))
	switch shape {
	case "panic", "goexit":
		if err == nil {
			response.Body.Close()
			return fmt.Errorf("was answered %s", response.Status)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return finish(shape, response)
}

// finish reads the answer and says whether it is the one that the shape should give.
func finish(shape string, response *http.Response) error {
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	want := http.StatusOK
	switch shape {
	case "timeout", "cancel", "refused", "tls_bad", "no_host", "reset", "tear", "break":
		want = http.StatusGatewayTimeout
	}
	if response.StatusCode != want {
		return fmt.Errorf("was answered %s", response.Status)
	}
	return nil
}

func (l *loader) post() error {
	body := strings.NewReader(strings.Repeat("x", rand.Intn(20000)))
	response, err := l.client.Post(fmt.Sprintf("%s/echo/%d", l.target.Main, l.id()), "text/plain", body)
	if err != nil {
		return err
	}
	return finish("echo", response)
}

// pipeline sends several requests before it reads the first answer.
func (l *loader) pipeline() error {
	return l.raw(4, "GET /sync/%d HTTP/1.1\r\nHost: pipeline\r\n\r\n")
}

func (l *loader) raw(requests int, form string) error {
	connection, err := net.Dial("tcp", strings.TrimPrefix(l.target.Main, "http://"))
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(20 * time.Second))
	var batch strings.Builder
	for i := 0; i < requests; i++ {
		fmt.Fprintf(&batch, form, l.id())
	}
	if _, err := io.WriteString(connection, batch.String()); err != nil {
		return err
	}
	reader := bufio.NewReader(connection)
	for i := 0; i < requests; i++ {
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return err
		}
		if err := finish("sync", response); err != nil {
			return err
		}
	}
	return nil
}

// gone sends a request and does not wait for the answer.
func (l *loader) gone() {
	connection, err := net.Dial("tcp", strings.TrimPrefix(l.target.Main, "http://"))
	if err != nil {
		return
	}
	defer connection.Close()
	fmt.Fprintf(connection, "GET /slow/%d?ms=30 HTTP/1.1\r\nHost: gone\r\n\r\n", l.id())
	time.Sleep(5 * time.Millisecond)
}
