//! grpc-go: a call served, a call made. The records are those of `net/http`, with these differences:
//!
//! - `path` is the full method as it goes over the wire (`/pkg.Service/Method`); method, scheme, host and pattern are
//!   empty; sizes are not known.
//! - `status` is the status code of gRPC: 0 is OK.
//! - `peer` is the target as the program dialled it.
//! - Of a failed call's [`ErrorSnapshot`](super::net_http::ErrorSnapshot) `values[0]` is the error; if its type is
//!   `*status.Error`, `status` is its code, and `text` its message. `values[1]` is what a `*fmt.wrapError` wraps; if
//!   that is a `*status.Error`, `word` is its code, and `text` its message.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The client may send any number of messages. In `flags` of a call.
pub const CALL_CLIENT_STREAMS: u32 = 1 << 16;
/// The server may. In `flags` of a call.
pub const CALL_SERVER_STREAMS: u32 = 1 << 17;
/// The code in `status` was read; else the status is not known.
pub const STATUS_READ: u32 = 1 << 18;
/// The messages were counted: [`BothWays`] follows the fixed part, and the [`ErrorSnapshot`] of a failed call.
///
/// [`ErrorSnapshot`]: super::net_http::ErrorSnapshot
pub const MESSAGES_COUNTED: u32 = 1 << 19;

/// The messages of a stream that went one way, as the program sees it: those that could not be sent are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Messages {
    pub count: u64,
    /// `CLOCK_BOOTTIME` when the first of them was sent or had come; 0 where there is none.
    pub first_ns: u64,
    /// And the last.
    pub last_ns: u64,
}

const _: () = assert!(size_of::<Messages>() == 24);

/// Both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BothWays {
    pub sent: Messages,
    pub received: Messages,
}

const _: () = assert!(size_of::<BothWays>() == 48);
