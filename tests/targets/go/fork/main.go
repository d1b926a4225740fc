// fork is a service that forks without starting another program, as no Go program should: /fork makes a copy of the
// process that calls a function of net/http which a probe has hooks in, and answers with what the copy has seen.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// The copy's exit status.
const (
	right = 42
	wrong = 43
)

// call begins and ends a call of net/http without a goroutine or a thread of its own, neither of which a copy has.
func call(request *http.Request) bool {
	response, err := http.DefaultTransport.RoundTrip(request)
	return response == nil && err != nil && err.Error() == `unsupported protocol scheme "none"`
}

// fork makes the copy and waits for it. What another thread held when it was made, memory's lock for one, is held for
// ever in the copy: one that does not end is killed, and says nothing.
func fork(request *http.Request) (status int, done bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, _, errno := syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
	if errno != 0 {
		log.Fatal(errno)
	}
	if pid == 0 {
		status := uintptr(wrong)
		if call(request) {
			status = right
		}
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, status, 0, 0)
	}
	for tries := 0; tries < 1000; tries++ {
		var status syscall.WaitStatus
		if got, _ := syscall.Wait4(int(pid), &status, syscall.WNOHANG, nil); got == int(pid) {
			if status.Signaled() {
				return -int(status.Signal()), true
			}
			return status.ExitStatus(), true
		}
		time.Sleep(time.Millisecond)
	}
	syscall.Kill(int(pid), syscall.SIGKILL)
	syscall.Wait4(int(pid), nil, 0, nil)
	return 0, false
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	// A collection would wait for threads that the copy lacks.
	debug.SetGCPercent(-1)
	request, err := http.NewRequest(http.MethodGet, "none://nowhere/", nil)
	if err != nil {
		log.Fatal(err)
	}
	call(request)
	http.HandleFunc("/fork", func(w http.ResponseWriter, r *http.Request) {
		for tries := 0; tries < 20; tries++ {
			if status, done := fork(request); done {
				fmt.Fprint(w, status)
				return
			}
		}
		http.Error(w, "no copy has ended", http.StatusServiceUnavailable)
	})
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("fork listens on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
