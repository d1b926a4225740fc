package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// upgrade switches protocols and then sends what looks like requests through the connection.
func upgrade(target string, seed int64) (int, error) {
	random := rand.New(rand.NewSource(seed))
	client := &http.Client{Transport: &http.Transport{}}
	for turn := 0; turn < 5; turn++ {
		request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("%s/upgrade/%d", target, turn), nil)
		if err != nil {
			return 0, err
		}
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", "echo")
		response, err := client.Do(request)
		if err != nil {
			return 0, err
		}
		tunnel, ok := response.Body.(io.ReadWriteCloser)
		if response.StatusCode != http.StatusSwitchingProtocols || !ok {
			return 0, fmt.Errorf("was answered %s", response.Status)
		}
		if err := converse(tunnel, random); err != nil {
			return 0, err
		}
		tunnel.Close()
	}
	return 5, nil
}

// converse sends texts and expects each of them back.
func converse(tunnel io.ReadWriter, random *rand.Rand) error {
	for i := 0; i < 20; i++ {
		text := []byte(poison)
		if i%3 == 1 {
			text = bodyOf(random, 1+random.Intn(5000))
		}
		if _, err := tunnel.Write(text); err != nil {
			return err
		}
		answer := make([]byte, len(text))
		if _, err := io.ReadFull(tunnel, answer); err != nil {
			return err
		}
		if !bytes.Equal(answer, text) {
			return fmt.Errorf("text %d came back as %q", i, answer)
		}
	}
	return nil
}

// raw writes requests by hand, without the library that the probe watches.
func raw(target string, seed int64) (int, error) {
	connection, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(20 * time.Second))
	reader := bufio.NewReader(connection)
	for turn := 0; turn < 20; turn++ {
		fmt.Fprintf(connection, "GET /echo/%d HTTP/1.1\r\nHost: by-hand\r\nX-Seed: %d\r\n\r\n", turn, seed)
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return 0, err
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return 0, err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("was answered %s", response.Status)
		}
	}
	return 20, nil
}

// connect reaches the TLS port of the service through its plain one, which tunnels.
func connect(target, secure string) (int, error) {
	proxy, err := url.Parse(target)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{
		Proxy:           http.ProxyURL(proxy),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	for turn := 0; turn < 10; turn++ {
		response, err := client.Get(fmt.Sprintf("%s/echo/%d", secure, turn))
		if err != nil {
			return 0, err
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return 0, err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("was answered %s", response.Status)
		}
	}
	return 10, nil
}
