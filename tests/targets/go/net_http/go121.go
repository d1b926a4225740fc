//go:build go1.21

package main

import "context"

// A goroutine knows who started it: a call that carries no context still has a parent.
const expectOfChildGoroutine = mustFind

func withoutCancel(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
