//go:build !go1.21

package main

import (
	"context"
	"time"
)

// A goroutine does not know who started it.
const expectOfChildGoroutine = mayFind

// detached keeps a context's values and drops its end.
type detached struct {
	context.Context
}

func (detached) Deadline() (time.Time, bool) { return time.Time{}, false }
func (detached) Done() <-chan struct{}       { return nil }
func (detached) Err() error                  { return nil }

func withoutCancel(ctx context.Context) context.Context { return detached{ctx} }
