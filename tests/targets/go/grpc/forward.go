package main

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/metadata"
)

// forward makes its calls with all metadata that it came with, as proxies do.
func (n *node) forward(to *line) shape {
	return func(ctx context.Context, id uint64) error {
		came, _ := metadata.FromIncomingContext(ctx)
		ctx = metadata.NewOutgoingContext(ctx, came.Copy())
		for _, k := range []kind{unary, chat} {
			if err := n.caller.call(ctx, *to, intent{id, "forward", mustFind}, k, "leaf"); err != nil {
				return err
			}
		}
		return nil
	}
}

// frailListener knows its connections, to break them.
type frailListener struct {
	net.Listener
	mu   sync.Mutex
	open []net.Conn
}

func (l *frailListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.open = append(l.open, connection)
		l.mu.Unlock()
	}
	return connection, err
}

// broken ends all connections of the frail port instead of answering, and with them what is under way there.
func (n *node) broken(context.Context, uint64) error {
	n.frailPort.mu.Lock()
	defer n.frailPort.mu.Unlock()
	for _, connection := range n.frailPort.open {
		connection.Close()
	}
	n.frailPort.open = nil
	return nil
}

// cut calls what breaks the connection; the next call needs another one.
func (n *node) cut(ctx context.Context, id uint64) error {
	for _, k := range []kind{unary, chat} {
		if err := must(n.caller.call(ctx, n.frail, intent{id, "cut", mustFind}, k, "broken")); err != nil {
			return err
		}
	}
	return nil
}
