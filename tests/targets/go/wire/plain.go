package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// poison is what a body may hold and must never be taken for the start of a request.
const poison = "GET /echo/1 HTTP/1.1\r\nHost: elsewhere\r\nsw8: 1-not-mine\r\n\r\n"

// step is one request; build makes it afresh, with its body and the hash that the answer has to name.
type step struct {
	name  string
	build func(random *rand.Rand, url string) (*http.Request, []byte, error)
}

func bodyOf(random *rand.Rand, size int) []byte {
	body := make([]byte, size)
	random.Read(body)
	return body
}

func post(url string, reader io.Reader, body []byte) (*http.Request, []byte, error) {
	request, err := http.NewRequest(http.MethodPost, url, reader)
	return request, body, err
}

// pieces reads a body in pieces of chance size, each of which the transport sends as a chunk of its own.
type pieces struct {
	random *rand.Rand
	rest   []byte
}

func (p *pieces) Read(buffer []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	size := 1 + p.random.Intn(9000)
	if size > len(p.rest) {
		size = len(p.rest)
	}
	size = copy(buffer, p.rest[:size])
	p.rest = p.rest[size:]
	return size, nil
}

// slowly gives each piece some time: the transport writes it to the connection before the next one comes.
type slowly struct {
	parts []string
}

func (s *slowly) Read(buffer []byte) (int, error) {
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	time.Sleep(2 * time.Millisecond)
	size := copy(buffer, s.parts[0])
	s.parts = s.parts[1:]
	return size, nil
}

func steps() []step {
	list := []step{
		{"get", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			request, err := http.NewRequest(http.MethodGet, url+fmt.Sprintf("?q=%d&n=%s", random.Int63(), strings.Repeat("n", random.Intn(60))), nil)
			return request, nil, err
		}},
		{"length", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			body := bodyOf(random, random.Intn(200<<10))
			return post(url, bytes.NewReader(body), body)
		}},
		{"empty", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			return post(url, http.NoBody, nil)
		}},
		{"tiny", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			body := bodyOf(random, 1+random.Intn(3))
			return post(url, bytes.NewReader(body), body)
		}},
		{"chunked", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			body := bodyOf(random, random.Intn(100<<10))
			return post(url, &pieces{random, body}, body)
		}},
		{"poison", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			body := []byte(strings.Repeat(poison, 1+random.Intn(100)))
			return post(url, bytes.NewReader(body), body)
		}},
		{"poison in pieces", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			parts := []string{poison, poison, "POST /echo/2 HTTP/1.1\r\n", poison}
			request, err := http.NewRequest(http.MethodPost, url, &slowly{parts})
			if err == nil {
				request.ContentLength = int64(len(strings.Join(parts, "")))
			}
			return request, []byte(strings.Join(parts, "")), err
		}},
		{"expect", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			body := bodyOf(random, 5000)
			request, _, err := post(url, bytes.NewReader(body), body)
			if err == nil {
				request.Header.Set("Expect", "100-continue")
			}
			return request, body, err
		}},
		{"file", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			body := bodyOf(random, 150<<10)
			file, err := os.CreateTemp("", "wire")
			if err != nil {
				return nil, nil, err
			}
			os.Remove(file.Name())
			if _, err := file.Write(body); err != nil {
				return nil, nil, err
			}
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				return nil, nil, err
			}
			request, _, err := post(url, file, body)
			if err == nil {
				request.ContentLength = int64(len(body))
			}
			return request, body, err
		}},
		{"trailer", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			body := bodyOf(random, 3000)
			request, _, err := post(url, &pieces{random, body}, body)
			if err == nil {
				request.Trailer = http.Header{"X-Sum": {"abc"}}
			}
			return request, body, err
		}},
		{"close", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			request, err := http.NewRequest(http.MethodGet, url, nil)
			if err == nil {
				request.Close = true
			}
			return request, nil, err
		}},
		{"own sw8", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			request, err := http.NewRequest(http.MethodGet, url, nil)
			if err == nil {
				request.Header.Set("sw8", "1-b3du-b3du-0-b3du-b3du-b3du-b3du")
			}
			return request, nil, err
		}},
		{"own sw8 in capitals", func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			request, err := http.NewRequest(http.MethodGet, url, nil)
			if err == nil {
				request.Header.Set("A", strings.Repeat("before ", random.Intn(200)))
				request.Header["SW8"] = []string{"1-b3du-b3du-0-b3du-b3du-b3du-b3du"}
			}
			return request, nil, err
		}},
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND"} {
		method := method
		list = append(list, step{"method " + method, func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			request, err := http.NewRequest(method, url, nil)
			return request, nil, err
		}})
	}
	// The transport writes through a buffer of 4,096 bytes: heads around that size take one write or two.
	for _, size := range []int{1000, 3500, 3700, 3800, 3850, 3900, 3950, 4000, 4100, 8000, 20000, 60000} {
		size := size
		list = append(list, step{fmt.Sprintf("head of %d", size), func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			request, err := http.NewRequest(http.MethodGet, url, nil)
			for i := 0; err == nil && size > 0; i++ {
				length := 100 + random.Intn(400)
				if length > size {
					length = size
				}
				request.Header.Set(fmt.Sprintf("X-Filler-%d", i), strings.Repeat("f", length))
				size -= length
			}
			return request, nil, err
		}})
	}
	for _, size := range []int{300, 450, 500, 520, 1000, 4000, 5000} {
		size := size
		list = append(list, step{fmt.Sprintf("path of %d", size), func(random *rand.Rand, url string) (*http.Request, []byte, error) {
			request, err := http.NewRequest(http.MethodGet, url+"?long="+strings.Repeat("p", size+random.Intn(20)), nil)
			return request, nil, err
		}})
	}
	return list
}

func plain(target string, seed int64, workers int) (int, error) {
	client := newClient(workers)
	all := steps()
	total := 2 * len(all)
	if workers > 1 {
		total = 10 * len(all)
	}
	return total, inTurns(total, workers, func(turn int) error {
		s := all[turn%len(all)]
		if err := one(client, s, target, seed, turn); err != nil {
			return fmt.Errorf("request %d, %s: %w", turn, s.name, err)
		}
		return nil
	})
}

func newClient(workers int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: workers, ExpectContinueTimeout: time.Second},
		Timeout:   20 * time.Second,
	}
}

// inTurns does the turns 0 to total-1, some at a time, and returns the first failure.
func inTurns(total, workers int, do func(turn int) error) error {
	turns := make(chan int)
	failures := make(chan error, workers)
	var group sync.WaitGroup
	for i := 0; i < workers; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for turn := range turns {
				if err := do(turn); err != nil {
					select {
					case failures <- err:
					default:
					}
				}
			}
		}()
	}
	for turn := 0; turn < total; turn++ {
		turns <- turn
	}
	close(turns)
	group.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// download fetches answers from one byte to five megabytes; none may be cut, changed or late.
func download(target string, seed int64, workers int) (int, error) {
	client := newClient(workers)
	sizes := []int{1, 100, 4095, 4096, 4097, 65535, 65536, 1 << 20, 5 << 20}
	total := 10 * len(sizes)
	return total, inTurns(total, workers, func(turn int) error {
		size := sizes[turn%len(sizes)]
		response, err := client.Get(fmt.Sprintf("%s/blob/%d?size=%d&seed=%d", target, turn, size, seed))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if len(body) != size {
			return fmt.Errorf("answer %d has %d bytes and not %d", turn, len(body), size)
		}
		for i, b := range body {
			if b != byte(i%251) {
				return fmt.Errorf("answer %d of %d bytes is wrong at %d", turn, size, i)
			}
		}
		return nil
	})
}

// one makes the request number turn, whose random choices depend on the seed and the turn alone.
func one(client *http.Client, s step, target string, seed int64, turn int) error {
	random := rand.New(rand.NewSource(seed*1000 + int64(turn)))
	request, body, err := s.build(random, fmt.Sprintf("%s/echo/%d", target, turn))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(body)
	want := fmt.Sprintf("%d %s\n", len(body), hex.EncodeToString(hash[:]))
	if request.Method == http.MethodHead {
		want = ""
	}
	if string(answer) != want {
		return fmt.Errorf("was answered %s %q and not %q", response.Status, answer, want)
	}
	return nil
}
