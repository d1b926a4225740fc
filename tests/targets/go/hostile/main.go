// hostile is a service that does what no service should: it answers any path, with headers of any size, and, with
// -churn, closes and reopens descriptors all the time.
//
//	/big?bytes=N    an answer with a header of N bytes
//	/call?bytes=N   asks itself for /big?bytes=N with a header of as many bytes, and answers with what it got
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
)

type service struct{ self string }

func (s service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bytes, _ := strconv.Atoi(r.URL.Query().Get("bytes"))
	switch r.URL.Path {
	case "/big":
		w.Header().Set("X-Big", strings.Repeat("b", bytes))
	case "/call":
		request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, s.self+"/big?"+r.URL.RawQuery, nil)
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("X-Big", strings.Repeat("c", bytes))
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		response.Body.Close()
		fmt.Fprint(w, response.StatusCode, " ", len(response.Header.Get("X-Big")))
	}
}

// churn makes one number stand for sockets, connections and files in turn.
func churn(address *net.TCPAddr) {
	place, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	peer := syscall.SockaddrInet4{Port: address.Port, Addr: [4]byte{127, 0, 0, 1}}
	for {
		socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			log.Fatal(err)
		}
		syscall.Dup2(socket, place)
		syscall.Connect(place, &peer)
		syscall.Close(socket)
		if file, err := syscall.Open("/proc/self/stat", syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err == nil {
			syscall.Dup2(file, place)
			syscall.Close(file)
		}
	}
}

func main() {
	churns := flag.Bool("churn", false, "close and reopen descriptors")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	if *churns {
		queue, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			for {
				if connection, err := queue.Accept(); err == nil {
					connection.Close()
				}
			}
		}()
		go churn(queue.Addr().(*net.TCPAddr))
		go churn(queue.Addr().(*net.TCPAddr))
	}
	self := "http://" + listener.Addr().String()
	fmt.Printf("hostile listens on %s\n", self)
	log.Fatal(http.Serve(listener, service{self}))
}
