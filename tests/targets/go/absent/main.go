// absent is a service that makes calls of which a part lies in memory that is there for the program whenever it looks,
// but not at the moment when the call begins: in a page of a file that it has just let go.
//
//	/stale      a call to /first that never ends, since it panics, and one to /second whose path is absent
//	/hold       answers once /release is asked for
//	/elsewhere  a call to /third on behalf of the request that is held, by a context that is absent; with ?present it is not
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"unsafe"
)

// page is one page of a file.
type page []byte

func newPage() page {
	file, err := os.CreateTemp("", "absent")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(file.Name())
	if err := file.Truncate(int64(os.Getpagesize())); err != nil {
		log.Fatal(err)
	}
	bytes, err := syscall.Mmap(int(file.Fd()), 0, os.Getpagesize(), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		log.Fatal(err)
	}
	return bytes
}

// leave has the process hold the page no more. Who looks at it next gets it from the file.
func (p page) leave() {
	if err := syscall.Madvise(p, syscall.MADV_DONTNEED); err != nil {
		log.Fatal(err)
	}
}

// derived is a context of a program's own making.
type derived struct{ context.Context }

type service struct {
	next    string
	path    page
	context page
	held    chan context.Context
	release chan struct{}
}

func (s *service) request(ctx context.Context, path string) *http.Request {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.next+path, nil)
	if err != nil {
		log.Fatal(err)
	}
	return request
}

// trip makes a call without anything that would look at the request before the transport does.
func trip(transport *http.Transport, request *http.Request) error {
	response, err := transport.RoundTrip(request)
	if err == nil {
		response.Body.Close()
	}
	return err
}

func (s *service) stale() error {
	func() {
		defer func() { recover() }()
		trip(&http.Transport{Proxy: func(*http.Request) (*url.URL, error) { panic("no proxy") }},
			s.request(context.Background(), "/first"))
	}()
	second := s.request(context.Background(), "/x")
	second.URL.Path = unsafe.String(&s.path[0], copy(s.path, "/second"))
	s.path.leave()
	return trip(&http.Transport{}, second)
}

func (s *service) elsewhere(present bool) error {
	ctx := (*derived)(unsafe.Pointer(&s.context[0]))
	ctx.Context = <-s.held
	third := s.request(ctx, "/third")
	if !present {
		s.context.leave()
	}
	return trip(&http.Transport{}, third)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	switch r.URL.Path {
	case "/stale":
		err = s.stale()
	case "/hold":
		s.held <- r.Context()
		<-s.release
	case "/elsewhere":
		err = s.elsewhere(r.URL.RawQuery == "present")
		s.release <- struct{}{}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

func main() {
	flag.Parse()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	s := &service{
		next:    "http://" + back.Addr().String(),
		path:    newPage(),
		context: newPage(),
		held:    make(chan context.Context),
		release: make(chan struct{}),
	}
	go http.Serve(back, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	fmt.Printf("absent listens on http://%s\n", front.Addr())
	log.Fatal(http.Serve(front, s))
}
