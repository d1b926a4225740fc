//! HTTP/2 of `net/http` and of `golang.org/x/net/http2`: a request served, and a call that `http2.Transport` itself was
//! asked for. The records are those of [`net_http`](super::net_http), to the last field; a request that panics takes its
//! stream along and not its connection. A call that `http.Transport` sends by HTTP/2 is one of `net_http`.
