// Command backlog calls itself by HTTP/2 in the clear over one connection whose buffers are small and full: bulk goes up
// it slowly, and short requests go between. Who reads it checks each byte, so that one too many or too few is seen.
//
// It begins when SIGUSR1 comes, goes on for three seconds and tells what went well, what did not, and how many requests
// came with a header of a tracer.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	duration    = 3 * time.Second
	bulkBytes   = 400_000
	bufferBytes = 16_384
	callers     = 6
)

// pattern yields bytes that tell where they belong.
type pattern struct{ at, end int }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.end {
		return 0, io.EOF
	}
	n := min(len(b), p.end-p.at)
	for i := range b[:n] {
		b[i] = byte((p.at + i) * 7 >> 3)
	}
	p.at += n
	return n, nil
}

var headers atomic.Int64

func bulk(w http.ResponseWriter, r *http.Request) {
	want := &pattern{end: bulkBytes}
	got, wanted := make([]byte, 16_384), make([]byte, 16_384)
	for {
		n, err := r.Body.Read(got)
		if _, short := io.ReadFull(want, wanted[:n]); short != nil || !bytes.Equal(got[:n], wanted[:n]) {
			http.Error(w, "other bytes than were sent", http.StatusBadRequest)
			return
		}
		if err != nil {
			return
		}
		// Slower than they come.
		time.Sleep(time.Millisecond)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("sw8") != "" {
		headers.Add(1)
	}
	io.WriteString(w, r.Header.Get("X-Number"))
}

func main() {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /bulk", bulk)
	mux.HandleFunc("GET /echo", echo)
	small := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		return conn.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, bufferBytes/2)
		})
	}}
	listener, err := small.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go (&http.Server{Handler: mux, Protocols: &protocols}).Serve(listener)
	url := "http://" + listener.Addr().String()
	client := &http.Client{Transport: &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				err = conn.(*net.TCPConn).SetWriteBuffer(bufferBytes)
			}
			return conn, err
		},
	}}

	begin := make(chan os.Signal, 1)
	signal.Notify(begin, syscall.SIGUSR1)
	fmt.Println("ready")
	<-begin

	var good, bad, calls atomic.Int64
	var why atomic.Value
	note := func(err error) {
		if err == nil {
			good.Add(1)
			return
		}
		bad.Add(1)
		why.CompareAndSwap(nil, err.Error())
	}
	ask := func(method, path, number string, body io.Reader) error {
		request, err := http.NewRequest(method, url+path, body)
		if err != nil {
			return err
		}
		request.Header.Set("X-Number", number)
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK || string(answer) != number {
			return fmt.Errorf("%s of %s answered %q: %v", response.Status, path, answer, err)
		}
		return nil
	}
	end := time.Now().Add(duration)
	var all sync.WaitGroup
	for range callers {
		all.Add(2)
		go func() {
			defer all.Done()
			for time.Now().Before(end) {
				note(ask("POST", "/bulk", "", &pattern{end: bulkBytes}))
			}
		}()
		go func() {
			defer all.Done()
			for time.Now().Before(end) {
				number := calls.Add(1)
				note(ask("GET", "/echo", fmt.Sprint(number), nil))
			}
		}()
	}
	all.Wait()
	fmt.Printf("%d good, %d bad (%v), %d of %d with a header\n", good.Load(), bad.Load(), why.Load(), headers.Load(), calls.Load())
	<-begin
}
