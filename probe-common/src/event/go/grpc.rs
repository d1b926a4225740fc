//! grpc-go: a call served, a call made. The records are those of `net/http`, with these differences:
//!
//! - `path` is the full method as it goes over the wire (`/pkg.Service/Method`); method, scheme, host and pattern are
//!   empty; sizes are not known.
//! - `status` is the status code of gRPC: 0 is OK.
//! - `peer` is the target as the program dialled it.
//! - Of a failed call's [`ErrorSnapshot`](super::net_http::ErrorSnapshot) `values[0]` is the error; if its type is
//!   `*status.Error`, `status` is its code, and `text` its message. `values[1]` is what a `*fmt.wrapError` wraps; if
//!   that is a `*status.Error`, `word` is its code, and `text` its message.

/// The client may send any number of messages. In `flags` of a call.
pub const CALL_CLIENT_STREAMS: u32 = 1 << 16;
/// The server may. In `flags` of a call.
pub const CALL_SERVER_STREAMS: u32 = 1 << 17;
/// The code in `status` was read; else the status is not known.
pub const STATUS_READ: u32 = 1 << 18;
