package main

import (
	"fmt"
	"syscall"
)

// closedPort takes a port for as long as the process lives and never listens on it: whoever connects is refused. Were
// the port let go, another service could get it.
func closedPort() (string, error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", err
	}
	own, err := syscall.Getsockname(socket)
	if err != nil {
		return "", err
	}
	taken, ok := own.(*syscall.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("bound to %T", own)
	}
	return fmt.Sprintf("127.0.0.1:%d", taken.Port), nil
}
