package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// addresses are the base URLs under which one service listens.
type addresses struct {
	Main  string `json:"main"`
	TLS   string `json:"tls"`
	Hasty string `json:"hasty"` // closes connections that have been idle for a moment
	Late  string `json:"late"`  // http.TimeoutHandler around every route
}

// node is one service.
type node struct {
	service string
	journal *journal
	caller  *caller
	next    addresses
	closed  string // a URL where nobody listens
	proxied *http.Client
	pool    *pool
	lazy    *lazyPool

	left sync.WaitGroup // goroutines that requests have left behind, and handlers that go on after their answer
}

func (n *node) background(work func()) {
	n.left.Add(1)
	go func() {
		defer n.left.Done()
		work()
	}()
}

// answersItself has the shapes whose caller has its answer before the request is written down.
var answersItself = map[string]bool{"hijack": true}

// mux routes /NAME/… to the shape NAME and writes each request down.
func (n *node) mux() http.Handler {
	mux := http.NewServeMux()
	for name, serve := range n.shapes() {
		name, serve := name, serve
		mux.HandleFunc("/"+name+"/", func(w http.ResponseWriter, r *http.Request) {
			if answersItself[name] {
				n.left.Add(1)
				defer n.left.Done()
			}
			note := record{
				ID: idOf(r.URL.Path), Kind: "entry", Service: n.service, Method: r.Method,
				Path: r.URL.Path, Shape: name, TLS: r.TLS != nil, StartNs: now(), Error: "cut short",
			}
			defer func() {
				note.EndNs = now()
				n.journal.write(note)
			}()
			note.Status = serve(w, r, note.ID)
			note.Error = ""
		})
	}
	// The harness asks for the log on disk, and for a goroutine's end to be waited for.
	mux.HandleFunc("/flush", func(w http.ResponseWriter, r *http.Request) {
		n.left.Wait()
		if err := n.journal.flush(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// forward plays the proxy for requests in absolute form.
func (n *node) forward(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			n.tunnel(w, r)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

// tunnel joins the client's connection to the address it names.
func (n *node) tunnel(w http.ResponseWriter, r *http.Request) {
	far, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	near, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		far.Close()
		return
	}
	io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	n.background(func() {
		io.Copy(far, buffered)
		far.Close()
	})
	n.background(func() {
		io.Copy(near, far)
		near.Close()
	})
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	name := flags.String("name", "service", "the service's name in its log")
	logPath := flags.String("log", "", "file for the log")
	firstID := flags.Uint64("first-id", 0, "calls are numbered from here on")
	next := flags.String("next", "", "what the next service printed when it started")
	listen := flags.String("listen", "127.0.0.1:0", "address of the main port")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	// Before anything that says that it has started.
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	journal, err := openJournal(*logPath)
	if err != nil {
		return err
	}

	n := &node{service: *name, journal: journal, caller: newCaller(*name, *firstID, journal)}
	n.pool = newPool(8)
	n.lazy = &lazyPool{pool: pool{jobs: make(chan job)}, max: 16}
	handler := n.forward(n.mux())
	quiet := log.New(io.Discard, "", 0)

	mainListener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	own := addresses{Main: "http://" + mainListener.Addr().String()}
	go plainServer(keepConnection(&http.Server{Handler: handler, ErrorLog: quiet})).Serve(mainListener)

	host, _, err := net.SplitHostPort(*listen)
	if err != nil {
		return err
	}
	anyPort := net.JoinHostPort(host, "0")
	hasty, err := net.Listen("tcp", anyPort)
	if err != nil {
		return err
	}
	own.Hasty = "http://" + hasty.Addr().String()
	go plainServer(&http.Server{Handler: handler, ErrorLog: quiet, IdleTimeout: time.Millisecond}).Serve(hasty)

	late, err := net.Listen("tcp", anyPort)
	if err != nil {
		return err
	}
	own.Late = "http://" + late.Addr().String()
	timed := http.TimeoutHandler(handler, 10*time.Second, "too late")
	go plainServer(&http.Server{Handler: timed, ErrorLog: quiet}).Serve(late)

	certificate, err := newCertificate()
	if err != nil {
		return err
	}
	secret, err := net.Listen("tcp", anyPort)
	if err != nil {
		return err
	}
	own.TLS = "https://" + secret.Addr().String()
	go secureServer(&http.Server{
		Handler:   handler,
		ErrorLog:  quiet,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}).ServeTLS(secret, "", "")

	// Without a next service it calls itself.
	n.next = own
	if *next != "" {
		if err := json.Unmarshal([]byte(*next), &n.next); err != nil {
			return fmt.Errorf("-next: %w", err)
		}
	}
	closed, err := closedPort()
	if err != nil {
		return err
	}
	n.closed = "http://" + closed
	proxyURL, err := url.Parse(n.next.Main)
	if err != nil {
		return err
	}
	n.proxied = n.caller.client(&http.Transport{Proxy: http.ProxyURL(proxyURL), MaxIdleConnsPerHost: 128})

	line, err := json.Marshal(own)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", line)

	<-ended.Done()
	n.left.Wait()
	return journal.close()
}
