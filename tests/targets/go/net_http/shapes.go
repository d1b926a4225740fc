package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// shape serves one route. It returns the status it answered with, 0 where the answer is not its own to give.
type shape func(w http.ResponseWriter, r *http.Request, id uint64) int

// fanWidth is how many calls a request makes at once.
const fanWidth = 4

// shapes are the routes of a service by name.
func (n *node) shapes() map[string]shape {
	return map[string]shape{
		// Answers without calling anybody.
		"leaf":    n.leaf,
		"slow":    n.slow,
		"echo":    n.echo,
		"moved":   n.moved,
		"status":  n.status,
		"panic":   n.panics,
		"goexit":  n.goexit,
		"hijack":  n.hijack,
		"upgrade": n.upgrade,
		"stream":  n.stream,
		"blob":    n.blob,
		"trailed": n.trailed,
		"parting": n.parting,
		"torn":    n.torn,
		"broken":  n.broken,

		// One call, in ways that keep the request's context or goroutine.
		"sync":      n.calling(n.sync),
		"bare":      n.calling(n.bare),
		"values":    n.calling(n.values),
		"deadline":  n.calling(n.deadline),
		"chain":     n.calling(n.chain),
		"twice":     n.calling(n.twice),
		"redirect":  n.calling(n.redirect),
		"retry":     n.calling(n.retry),
		"post":      n.calling(n.post),
		"chunked":   n.calling(n.chunked),
		"tls":       n.calling(n.overTLS),
		"via_proxy": n.calling(n.viaProxy),
		"trailers":  n.calling(n.trailers),
		"part":      n.calling(n.part),

		// Calls that a proxy makes of the request it got, and calls to such a proxy.
		"proxy":        n.forwarding("proxy", n.byPlain, "/leaf/"),
		"proxy_tls":    n.forwarding("proxy_tls", n.byTLS, "/leaf/"),
		"proxy_twice":  n.forwarding("proxy_twice", n.byPlain, "/proxy/"),
		"behind":       n.calling(n.behind("/proxy/")),
		"behind_tls":   n.calling(n.behind("/proxy_tls/")),
		"behind_twice": n.calling(n.behind("/proxy_twice/")),

		// Calls from other goroutines.
		"fanout_ctx":  n.calling(n.fanoutWithContext),
		"fanout":      n.calling(n.fanout),
		"fanout_deep": n.calling(n.fanoutDeep),
		"pool_ctx":    n.calling(n.poolWithContext),
		"pool":        n.calling(n.poolBare),
		"pool_lazy":   n.calling(n.poolLazy),
		"overlap":     n.overlap,
		"outlive":     n.outlive,
		"outlive_ctx": n.outliveWithContext,

		// Calls that fail.
		"timeout": n.failing(n.timeout),
		"cancel":  n.failing(n.cancel),
		"refused": n.failing(n.refused),
		"tls_bad": n.failing(n.overTLSUntrusted),
		"no_host": n.failing(n.noHost),
		"failed":  n.calling(n.failedStatus),
		"reset":   n.failing(n.answeredBy("reset", n.byPlain, "/panic/")),
		"tear":    n.failing(n.answeredBy("tear", n.byPlain, "/torn/")),
		"break":   n.failing(n.answeredBy("break", n.byFrail, "/broken/")),
	}
}

// calling makes a route of a function that makes calls: 200 if all of them went well, 502 if not.
func (n *node) calling(calls func(r *http.Request, id uint64) error) shape {
	return func(w http.ResponseWriter, r *http.Request, id uint64) int {
		if err := calls(r, id); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return http.StatusBadGateway
		}
		fmt.Fprintf(w, "done %d\n", id)
		return http.StatusOK
	}
}

// failing makes a route of a function whose call is meant to fail: 504 when it did, 200 when it did not.
func (n *node) failing(call func(r *http.Request, id uint64) error) shape {
	return func(w http.ResponseWriter, r *http.Request, id uint64) int {
		if err := call(r, id); err != nil {
			http.Error(w, err.Error(), http.StatusGatewayTimeout)
			return http.StatusGatewayTimeout
		}
		fmt.Fprintf(w, "done %d\n", id)
		return http.StatusOK
	}
}

// === Answers ===

func (n *node) leaf(w http.ResponseWriter, r *http.Request, id uint64) int {
	fmt.Fprintf(w, "leaf %d\n", id)
	return http.StatusOK
}

// slow takes the time that the parameter ms names, or until its client is gone.
func (n *node) slow(w http.ResponseWriter, r *http.Request, id uint64) int {
	ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil {
		ms = 60
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
	case <-r.Context().Done():
		return 0
	}
	fmt.Fprintf(w, "slow %d\n", id)
	return http.StatusOK
}

// echo answers with the length and the hash of the body.
func (n *node) echo(w http.ResponseWriter, r *http.Request, id uint64) int {
	hash := sha256.New()
	length, err := io.Copy(hash, r.Body)
	if err != nil {
		return 0
	}
	fmt.Fprintf(w, "%d %s\n", length, hex.EncodeToString(hash.Sum(nil)))
	return http.StatusOK
}

func (n *node) moved(w http.ResponseWriter, r *http.Request, id uint64) int {
	next := n.caller.lastID.Add(1)
	http.Redirect(w, r, "/leaf/"+strconv.FormatUint(next, 10), http.StatusFound)
	return http.StatusFound
}

// status answers with the status that the parameter code names.
func (n *node) status(w http.ResponseWriter, r *http.Request, id uint64) int {
	code, err := strconv.Atoi(r.URL.Query().Get("code"))
	if err != nil {
		code = http.StatusTeapot
	}
	w.WriteHeader(code)
	return code
}

func (n *node) panics(http.ResponseWriter, *http.Request, uint64) int {
	panic("this route panics")
}

func (n *node) goexit(http.ResponseWriter, *http.Request, uint64) int {
	runtime.Goexit()
	return 0
}

func (n *node) hijack(w http.ResponseWriter, r *http.Request, id uint64) int {
	connection, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return 0
	}
	defer connection.Close()
	fmt.Fprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhijacked\n")
	return 0
}

// upgrade switches to a protocol that sends everything back.
func (n *node) upgrade(w http.ResponseWriter, r *http.Request, id uint64) int {
	connection, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return 0
	}
	defer connection.Close()
	fmt.Fprintf(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	io.Copy(connection, buffered)
	return 0
}

// stream sends its answer in pieces.
func (n *node) stream(w http.ResponseWriter, r *http.Request, id uint64) int {
	for i := 0; i < 5; i++ {
		fmt.Fprintf(w, "piece %d\n", i)
		w.(http.Flusher).Flush()
		time.Sleep(2 * time.Millisecond)
	}
	return http.StatusOK
}

// blob answers with as many bytes as the parameter size says, each of them its position's remainder by 251.
func (n *node) blob(w http.ResponseWriter, r *http.Request, id uint64) int {
	size, err := strconv.Atoi(r.URL.Query().Get("size"))
	if err != nil {
		http.Error(w, "no size", http.StatusBadRequest)
		return http.StatusBadRequest
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i % 251)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(body)
	return http.StatusOK
}

// === Calls on the request's goroutine ===

func (n *node) sync(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.plain, intent{id, "sync", mustFind}, n.next.Main, "/leaf/")
}

// bare carries no context: only the goroutine ties it to its request.
func (n *node) bare(r *http.Request, id uint64) error {
	return n.caller.get(context.Background(), n.caller.plain, intent{id, "bare", mustFind}, n.next.Main, "/leaf/")
}

type depth int

func (n *node) values(r *http.Request, id uint64) error {
	ctx := r.Context()
	for i := depth(0); i < 5; i++ {
		ctx = context.WithValue(ctx, i, "some value")
	}
	return n.elsewhere(func() error {
		return n.caller.get(ctx, n.caller.plain, intent{id, "values", mustFind}, n.next.Main, "/leaf/")
	})
}

func (n *node) deadline(r *http.Request, id uint64) error {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	return n.elsewhere(func() error {
		return n.caller.get(ctx, n.caller.plain, intent{id, "deadline", mustFind}, n.next.Main, "/leaf/")
	})
}

// elsewhere runs on a goroutine that has nothing to do with the request: only a context can tie them.
func (n *node) elsewhere(call func() error) error {
	return n.pool.run(context.Background(), func(context.Context) error { return call() })
}

// chain calls a route that itself makes a call.
func (n *node) chain(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.plain, intent{id, "chain", mustFind}, n.next.Main, "/sync/")
}

func (n *node) twice(r *http.Request, id uint64) error {
	for i := 0; i < 2; i++ {
		if err := n.caller.get(r.Context(), n.caller.plain, intent{id, "twice", mustFind}, n.next.Main, "/leaf/"); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) redirect(r *http.Request, id uint64) error {
	i := intent{id, "redirect", mustFind}
	ctx := context.WithValue(r.Context(), intentKey{}, i)
	return n.caller.get(ctx, n.caller.plain, i, n.next.Main, "/moved/")
}

// retry calls a server that closes idle connections at once: now and then the transport has to send again.
func (n *node) retry(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.plain, intent{id, "retry", mustFind}, n.next.Hasty, "/leaf/")
}

func (n *node) post(r *http.Request, id uint64) error {
	body := bytes.NewReader(randomBody())
	return n.caller.do(r.Context(), n.caller.plain, intent{id, "post", mustFind}, http.MethodPost, n.next.Main, "/echo/", body)
}

func (n *node) chunked(r *http.Request, id uint64) error {
	// Of a reader that is none of the known ones the transport does not know the length.
	body := struct{ io.Reader }{bytes.NewReader(randomBody())}
	return n.caller.do(r.Context(), n.caller.plain, intent{id, "chunked", mustFind}, http.MethodPost, n.next.Main, "/echo/", body)
}

func randomBody() []byte {
	body := make([]byte, rand.Intn(64<<10))
	rand.Read(body)
	return body
}

func (n *node) overTLS(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.tls, intent{id, "tls", mustFind}, n.next.TLS, "/leaf/")
}

// viaProxy sends the request in its absolute form to a proxy; the next service plays it.
func (n *node) viaProxy(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.proxied, intent{id, "via_proxy", mustFind}, n.next.Main, "/leaf/")
}

func (n *node) failedStatus(r *http.Request, id uint64) error {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet,
		n.next.Main+"/status/"+n.caller.announce(intent{id, "failed", mustFind})+"?code=503", nil)
	if err != nil {
		return err
	}
	return n.caller.send(n.caller.plain, request)
}

// === Calls on other goroutines ===

func (n *node) fan(call func() error) error {
	var group sync.WaitGroup
	failures := make([]error, fanWidth)
	for i := 0; i < fanWidth; i++ {
		i := i
		group.Add(1)
		go func() {
			defer group.Done()
			failures[i] = call()
		}()
	}
	group.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *node) fanoutWithContext(r *http.Request, id uint64) error {
	return n.fan(func() error {
		return n.caller.get(r.Context(), n.caller.plain, intent{id, "fanout_ctx", mustFind}, n.next.Main, "/leaf/")
	})
}

func (n *node) fanout(r *http.Request, id uint64) error {
	return n.fan(func() error {
		return n.caller.get(context.Background(), n.caller.plain, intent{id, "fanout", expectOfChildGoroutine}, n.next.Main, "/leaf/")
	})
}

// fanoutDeep calls from the goroutine of a goroutine: who started that one is not kept anywhere.
func (n *node) fanoutDeep(r *http.Request, id uint64) error {
	return n.fan(func() error {
		done := make(chan error)
		go func() {
			done <- n.caller.get(context.Background(), n.caller.plain, intent{id, "fanout_deep", mayFind}, n.next.Main, "/leaf/")
		}()
		return <-done
	})
}

func (n *node) poolWithContext(r *http.Request, id uint64) error {
	return n.pool.run(r.Context(), func(ctx context.Context) error {
		return n.caller.get(ctx, n.caller.plain, intent{id, "pool_ctx", mustFind}, n.next.Main, "/leaf/")
	})
}

func (n *node) poolBare(r *http.Request, id uint64) error {
	return n.pool.run(nil, func(ctx context.Context) error {
		return n.caller.get(ctx, n.caller.plain, intent{id, "pool", mayFind}, n.next.Main, "/leaf/")
	})
}

func (n *node) poolLazy(r *http.Request, id uint64) error {
	return n.lazy.run(func(ctx context.Context) error {
		return n.caller.get(ctx, n.caller.plain, intent{id, "pool_lazy", mayFind}, n.next.Main, "/leaf/")
	})
}

// overlap starts a call while the request is open and answers before the call has ended.
func (n *node) overlap(w http.ResponseWriter, r *http.Request, id uint64) int {
	started := make(chan struct{})
	ctx := withoutCancel(r.Context())
	n.background(func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet,
			n.next.Main+"/slow/"+n.caller.announce(intent{id, "overlap", mustFind})+"?ms=15", nil)
		if err == nil {
			time.AfterFunc(5*time.Millisecond, func() { close(started) })
			n.caller.send(n.caller.plain, request)
		}
	})
	<-started
	fmt.Fprintf(w, "overlap %d\n", id)
	return http.StatusOK
}

// outlive calls after the response, from a goroutine that the request has left behind.
func (n *node) outlive(w http.ResponseWriter, r *http.Request, id uint64) int {
	n.background(func() {
		time.Sleep(10 * time.Millisecond)
		n.caller.get(context.Background(), n.caller.plain, intent{id, "outlive", mayFind}, n.next.Main, "/leaf/")
	})
	fmt.Fprintf(w, "outlive %d\n", id)
	return http.StatusOK
}

// outliveWithContext does the same with what is left of the request's context.
func (n *node) outliveWithContext(w http.ResponseWriter, r *http.Request, id uint64) int {
	ctx := withoutCancel(r.Context())
	n.background(func() {
		time.Sleep(10 * time.Millisecond)
		n.caller.get(ctx, n.caller.plain, intent{id, "outlive_ctx", mayFind}, n.next.Main, "/leaf/")
	})
	fmt.Fprintf(w, "outlive %d\n", id)
	return http.StatusOK
}

// === Calls that fail ===

func (n *node) timeout(r *http.Request, id uint64) error {
	ctx, cancel := context.WithTimeout(r.Context(), 15*time.Millisecond)
	defer cancel()
	return n.caller.get(ctx, n.caller.plain, intent{id, "timeout", mustFind}, n.next.Main, "/slow/")
}

func (n *node) cancel(r *http.Request, id uint64) error {
	ctx, cancel := context.WithCancel(r.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	return n.caller.get(ctx, n.caller.plain, intent{id, "cancel", mustFind}, n.next.Main, "/slow/")
}

func (n *node) refused(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.plain, intent{id, "refused", mustFind}, n.closed, "/leaf/")
}

func (n *node) overTLSUntrusted(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.strict, intent{id, "tls_bad", mustFind}, n.next.TLS, "/leaf/")
}

func (n *node) noHost(r *http.Request, id uint64) error {
	return n.caller.get(r.Context(), n.caller.plain, intent{id, "no_host", mustFind}, "http://no-such-host.invalid", "/leaf/")
}
