package main

import (
	"context"
	"fmt"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// recorder notes what connections are given to send and what they get, in files of one folder: sent-N and got-N for the
// connection that was opened as the Nth.
type recorder struct {
	folder string
	opened atomic.Int64
}

// option lets a client's connections be recorded.
func (r *recorder) option() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		number := r.opened.Add(1) - 1
		sent, err := os.Create(filepath.Join(r.folder, fmt.Sprintf("sent-%d", number)))
		if err != nil {
			return nil, err
		}
		got, err := os.Create(filepath.Join(r.folder, fmt.Sprintf("got-%d", number)))
		if err != nil {
			return nil, err
		}
		return &recorded{conn, sent, got}, nil
	})
}

type recorded struct {
	net.Conn
	sent, got *os.File
}

func (c *recorded) Write(bytes []byte) (int, error) {
	written, err := c.Conn.Write(bytes)
	c.sent.Write(bytes[:written])
	return written, err
}

func (c *recorded) Read(bytes []byte) (int, error) {
	read, err := c.Conn.Read(bytes)
	c.got.Write(bytes[:read])
	return read, err
}

// How large messages and metadata may be, small ones more often than large ones. A letter takes six bits in a frame,
// which has 16,384 bytes at most: one size just fits, and one just does not.
var (
	messageBytes  = []int{0, 0, 1, 5, 100, 100, 1000, 16_379, 16_384, 40_000, 100_000, 1 << 20}
	metadataBytes = []int{0, 0, 0, 0, 10, 100, 1000, 4000, 16_000, 20_000, 21_500, 21_800, 64 << 10}
)

// parcels are calls of all sizes, many at once, the same ones for the same number.
func (n *node) parcels(ctx context.Context, id uint64) error {
	const calls = 60
	type parcel struct {
		kind     kind
		messages []int
		metadata int
	}
	random := rand.New(rand.NewSource(int64(id)))
	var parcels []parcel
	for range calls {
		p := parcel{
			kind:     []kind{unary, upload, download, chat}[random.Intn(4)],
			metadata: metadataBytes[random.Intn(len(metadataBytes))],
		}
		for range 1 + random.Intn(4) {
			p.messages = append(p.messages, messageBytes[random.Intn(len(messageBytes))])
		}
		parcels = append(parcels, p)
	}
	var next atomic.Int64
	return n.fan(calls, func() error {
		p := parcels[next.Add(1)-1]
		ctx := ctx
		if p.metadata != 0 {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-parcel", strings.Repeat("p", p.metadata))
		}
		to := n.plain
		// Its headers do not fit one frame, or only by themselves, or lie across two messages.
		to.bare = true
		note := n.caller.note(to, intent{id, "parcels", mustFind}, p.kind, "leaf")
		err := send(tallied(ctx, note.tally), to, p.kind, note.Path, p.messages)
		n.caller.done(note, err)
		return err
	})
}

// send makes a call with messages of these sizes.
func send(ctx context.Context, to line, k kind, method string, sizes []int) error {
	out := func(size int) *wrapperspb.BytesValue {
		bytes := make([]byte, size)
		for i := range bytes {
			bytes[i] = byte(i * i)
		}
		return wrapperspb.Bytes(bytes)
	}
	if k == unary {
		return to.Invoke(ctx, method, out(sizes[0]), &wrapperspb.BytesValue{})
	}
	stream, err := to.NewStream(ctx, k.desc(), method)
	if err != nil {
		return err
	}
	if k == download {
		sizes = sizes[:1]
	}
	for _, size := range sizes {
		if err := stream.SendMsg(out(size)); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
			return ended(err)
		}
	}
}
