package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
)

// intent is what a call about to be made knows of itself.
type intent struct {
	parent uint64
	shape  string
	expect string
}

// caller makes calls and writes them down. Its clients share one transport for each way of connecting.
type caller struct {
	service string
	journal *journal
	lastID  atomic.Uint64
	intents sync.Map // id → intent

	plain   *http.Client
	parting *http.Client // for calls whose connections are to be left
	frail   *http.Client // for those whose connections break
	tls     *http.Client // accepts any certificate
	strict  *http.Client // accepts no certificate of ours
}

func newCaller(service string, firstID uint64, journal *journal) *caller {
	c := &caller{service: service, journal: journal}
	c.lastID.Store(firstID)
	c.plain = c.client(plainTransport(128))
	c.parting = c.client(plainTransport(8))
	c.frail = c.client(plainTransport(8))
	c.tls = c.client(secureTransport(128, &tls.Config{InsecureSkipVerify: true}))
	c.strict = c.client(secureTransport(2, &tls.Config{}))
	return c
}

func (c *caller) client(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: &noting{caller: c, base: transport},
		// A redirect names the next call's id: it is made on behalf of the same request.
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if len(via) > 5 {
				return errors.New("too many redirects")
			}
			first := via[0].Context().Value(intentKey{})
			if known, ok := first.(intent); ok {
				c.intents.Store(idOf(next.URL.Path), known)
			}
			return nil
		},
	}
}

type intentKey struct{}

// announce gives a new call its id and returns the end of its path.
func (c *caller) announce(i intent) string {
	id := c.lastID.Add(1)
	c.intents.Store(id, i)
	return strconv.FormatUint(id, 10)
}

// noting is a transport that writes each round trip down.
type noting struct {
	caller *caller
	base   http.RoundTripper
}

func (n *noting) RoundTrip(request *http.Request) (*http.Response, error) {
	c := n.caller
	id := idOf(request.URL.Path)
	note := record{
		ID: id, Kind: "exit", Service: c.service, Method: request.Method,
		Path: request.URL.Path, Peer: peerOf(request.URL), TLS: request.URL.Scheme == "https",
	}
	if known, ok := c.intents.LoadAndDelete(id); ok {
		i := known.(intent)
		note.Parent, note.Shape, note.Expect = i.parent, i.shape, i.expect
	}
	note.StartNs = now()
	response, err := n.base.RoundTrip(request)
	note.EndNs = now()
	if err != nil {
		note.Error = err.Error()
	} else {
		note.Status = response.StatusCode
	}
	c.journal.write(note)
	return response, err
}

// peerOf is the host:port that a URL leads to.
func peerOf(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "https" {
		return u.Host + ":443"
	}
	return u.Host + ":80"
}

// get makes one call and reads the whole answer.
func (c *caller) get(ctx context.Context, client *http.Client, i intent, base, route string) error {
	return c.do(ctx, client, i, http.MethodGet, base, route, nil)
}

func (c *caller) do(ctx context.Context, client *http.Client, i intent, method, base, route string, body io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, method, base+route+c.announce(i), body)
	if err != nil {
		return err
	}
	return c.send(client, request)
}

func (c *caller) send(client *http.Client, request *http.Request) error {
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// pool is a fixed number of workers that make calls for whoever hands them a job.
type pool struct {
	jobs chan job
}

type job struct {
	call func(context.Context) error
	ctx  context.Context // nil: the job carries none
	done chan error
}

func newPool(workers int) *pool {
	p := &pool{jobs: make(chan job)}
	for i := 0; i < workers; i++ {
		go p.work()
	}
	return p
}

func (p *pool) work() {
	for j := range p.jobs {
		ctx := j.ctx
		if ctx == nil {
			ctx = context.Background()
		}
		j.done <- j.call(ctx)
	}
}

func (p *pool) run(ctx context.Context, call func(context.Context) error) error {
	j := job{call: call, ctx: ctx, done: make(chan error, 1)}
	p.jobs <- j
	return <-j.done
}

// lazyPool starts a worker when a job finds none idle; the worker then stays for the jobs of others.
type lazyPool struct {
	pool
	workers atomic.Int64
	max     int64
}

func (p *lazyPool) run(call func(context.Context) error) error {
	j := job{call: call, done: make(chan error, 1)}
	select {
	case p.jobs <- j:
	default:
		if p.workers.Add(1) <= p.max {
			go p.work()
		} else {
			p.workers.Add(-1)
		}
		p.jobs <- j
	}
	return <-j.done
}
