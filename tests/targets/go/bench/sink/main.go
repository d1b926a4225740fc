// Sink takes what every agent of the bench reports by gRPC, answers that all is well, and keeps nothing: whatever the
// service and the method. It reads frames and no more, so that it takes little of the processors that all share.
//
// It counts what came, and prints the counts as a line of JSON for each line of standard input.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What the messages tell of the work that was traced.
var (
	segments atomic.Uint64
	spans    atomic.Uint64
)

const (
	segmentsMethod = "/skywalking.v3.TraceSegmentReportService/collect"
	spansMethod    = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
)

// A sender may have so much under way.
const window = 1<<31 - 1

// stream is a call: its method, and the message that is under way.
type stream struct {
	method string
	// Of the message's prefix, what has come; behind it the message, if it is one that is looked into.
	prefix  []byte
	left    int
	message []byte
}

// take notes the messages in the stream's next bytes.
func (s *stream) take(data []byte) {
	for len(data) > 0 {
		if len(s.prefix) < 5 {
			n := min(5-len(s.prefix), len(data))
			s.prefix = append(s.prefix, data[:n]...)
			data = data[n:]
			if len(s.prefix) < 5 {
				return
			}
			s.left = int(binary.BigEndian.Uint32(s.prefix[1:]))
		}
		n := min(s.left, len(data))
		if s.method == spansMethod {
			s.message = append(s.message, data[:n]...)
		}
		s.left -= n
		data = data[n:]
		if s.left == 0 {
			s.count()
			s.prefix, s.message = s.prefix[:0], s.message[:0]
		}
	}
}

// count notes a whole message.
func (s *stream) count() {
	switch s.method {
	case segmentsMethod:
		segments.Add(1)
	case spansMethod:
		each(s.message, 1, func(resource []byte) {
			each(resource, 2, func(scope []byte) {
				each(scope, 2, func([]byte) { spans.Add(1) })
			})
		})
	}
}

// each visits the length-delimited fields of this number in a message.
func each(message []byte, number uint64, visit func([]byte)) {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return
		}
		message = message[n:]
		skip := 0
		switch tag & 7 {
		case 0:
			_, skip = binary.Uvarint(message)
		case 1:
			skip = 8
		case 2:
			length, n := binary.Uvarint(message)
			if n <= 0 || length > uint64(len(message)-n) {
				return
			}
			skip = n + int(length)
			if tag>>3 == number {
				visit(message[n:skip])
			}
		case 5:
			skip = 4
		}
		if skip <= 0 || skip > len(message) {
			return
		}
		message = message[skip:]
	}
}

// connection is one sender.
type connection struct {
	framer  *http2.Framer
	out     *bufio.Writer
	decoder *hpack.Decoder
	encoder *hpack.Encoder
	block   bytes.Buffer
	streams map[uint32]*stream
	// Bytes that came since the sender was told that it may send on.
	taken uint32
}

func serve(socket net.Conn) error {
	defer socket.Close()
	in := bufio.NewReaderSize(socket, 1<<18)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return fmt.Errorf("%q is no HTTP/2", preface)
	}
	c := &connection{out: bufio.NewWriter(socket), streams: map[uint32]*stream{}}
	c.framer = http2.NewFramer(c.out, in)
	c.framer.SetReuseFrames()
	c.decoder = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	c.framer.WriteWindowUpdate(0, window-65535)
	for {
		if err := c.out.Flush(); err != nil {
			return err
		}
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := c.on(frame); err != nil {
			return err
		}
	}
}

func (c *connection) on(frame http2.Frame) error {
	id := frame.Header().StreamID
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return c.framer.WritePing(true, frame.Data)
		}
	case *http2.HeadersFrame:
		if !frame.HeadersEnded() {
			return fmt.Errorf("a header block in several frames")
		}
		opened := &stream{}
		c.decoder.SetEmitFunc(func(field hpack.HeaderField) {
			if field.Name == ":path" {
				opened.method = field.Value
			}
		})
		if _, err := c.decoder.Write(frame.HeaderBlockFragment()); err != nil {
			return err
		}
		if err := c.decoder.Close(); err != nil {
			return err
		}
		c.streams[id] = opened
		if frame.StreamEnded() {
			return c.answer(id)
		}
	case *http2.DataFrame:
		if stream, ok := c.streams[id]; ok {
			stream.take(frame.Data())
		}
		// All calls of a sender share one window here; none sends so much in one call.
		if c.taken += frame.Length; c.taken > window/2 {
			c.framer.WriteWindowUpdate(0, c.taken)
			c.framer.WriteWindowUpdate(id, c.taken)
			c.taken = 0
		}
		if frame.StreamEnded() {
			return c.answer(id)
		}
	case *http2.RSTStreamFrame:
		delete(c.streams, id)
	}
	return nil
}

// answer ends a call with an empty message, which all methods understand, and success.
func (c *connection) answer(id uint32) error {
	delete(c.streams, id)
	if err := c.headers(id, false, ":status", "200", "content-type", "application/grpc"); err != nil {
		return err
	}
	if err := c.framer.WriteData(id, false, make([]byte, 5)); err != nil {
		return err
	}
	return c.headers(id, true, "grpc-status", "0")
}

func (c *connection) headers(id uint32, ended bool, fields ...string) error {
	c.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		c.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID:      id,
		BlockFragment: c.block.Bytes(),
		EndStream:     ended,
		EndHeaders:    true,
	})
}

func main() {
	listen := flag.String("listen", "127.0.0.1:11800", "address to listen on")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			socket, err := listener.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				if err := serve(socket); err != io.EOF {
					log.Print(err)
				}
			}()
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		counts := map[string]uint64{"segments": segments.Load(), "spans": spans.Load()}
		if err := json.NewEncoder(os.Stdout).Encode(counts); err != nil {
			log.Fatal(err)
		}
	}
}
