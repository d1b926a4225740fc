//! `net/http`, HTTP/1.x: a request served, a call sent.
//!
//! Both records end with the bytes of their strings, one after the other in the order of their lengths.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::EventHeader;

/// How serving a request came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(u32)]
pub enum RequestEnd {
    /// The response was finished.
    Finished = 0,
    /// The handler took the connection over; what it did with it is not known.
    Hijacked = 1,
    /// The handler panicked, or ended its goroutine: the connection was closed without a response's end.
    Panicked = 2,
    /// The next request began on the goroutine before this one's end was seen.
    Missed = 3,
}

/// The client was gone, or its connection failed, before the response was finished.
pub const REQUEST_CLIENT_GONE: u32 = 1 << 0;
/// The path is longer than what is kept.
pub const REQUEST_PATH_TRUNCATED: u32 = 1 << 1;
/// The head had (in part) left the parser's buffer: absent headers may have been sent.
pub const REQUEST_HEAD_INCOMPLETE: u32 = 1 << 2;
/// `sw8` was well-formed: its trace is continued and `trace_id` is all zero.
pub const REQUEST_SW8_CONTINUED: u32 = 1 << 3;
/// The request came over TLS.
pub const REQUEST_TLS: u32 = 1 << 4;
/// `sw8` was there and malformed; it is in the record for the log.
pub const REQUEST_SW8_MALFORMED: u32 = 1 << 5;
/// `operation` has gone out as `parentEndpoint`: the span must carry this very name.
pub const REQUEST_OPERATION_SENT: u32 = 1 << 6;
/// `traceparent` was well-formed and `sw8` absent: `trace_id` is the W3C trace id.
pub const REQUEST_W3C_CONTINUED: u32 = 1 << 7;
/// Paths are not folded for this target.
pub const REQUEST_KEEP_PATH: u32 = 1 << 8;

/// A request that a server has finished. Entry span.
#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestEvent {
    pub header: EventHeader,
    /// `CLOCK_BOOTTIME` when `serverHandler.ServeHTTP` began.
    pub start_ns: u64,
    /// `CLOCK_BOOTTIME` when the end was seen.
    pub end_ns: u64,
    pub goid: u64,
    /// Names the trace where `sw8` does not.
    pub trace_id: [u8; 16],
    pub segment_id: [u8; 16],
    /// `Request.ContentLength`: -1 where unknown.
    pub request_bytes: i64,
    /// `response.written`: bytes of the body that the handler wrote.
    pub response_bytes: i64,
    pub end: RequestEnd,
    /// `REQUEST_*`.
    pub flags: u32,
    /// Spans given out in this segment: this one and the calls that found it as their parent.
    pub span_count: u32,
    pub status: u16,
    pub method_len: u16,
    pub path_len: u16,
    pub host_len: u16,
    /// `Request.Pattern` at the end of the request; empty before Go 1.23.
    pub pattern_len: u16,
    /// The operation name, where it was sent in an `sw8`.
    pub operation_len: u16,
    pub sw8_len: u16,
    pub correlation_len: u16,
    pub sw8_x_len: u16,
    pub traceparent_len: u16,
}

const _: () = assert!(size_of::<RequestEvent>() == 112);

/// How a call found its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(u32)]
pub enum ParentFound {
    /// It did not: the call is the root of its own segment.
    None = 0,
    /// By the chain of its request's `context.Context`.
    Context = 1,
    /// By its own goroutine, which serves the parent request.
    Goroutine = 2,
    /// By its goroutine's creator, proven younger than the parent request.
    Ancestry = 3,
}

/// A host or path is longer than what is kept.
pub const CALL_TRUNCATED: u32 = 1 << 0;
/// The call ended with an error; `error` is valid.
pub const CALL_FAILED: u32 = 1 << 1;
/// The parent's trace came by `sw8`: `trace_id` is all zero, the parent's record has the name.
pub const CALL_TRACE_FOREIGN: u32 = 1 << 2;
/// Paths are not folded for this target.
pub const CALL_KEEP_PATH: u32 = 1 << 3;

/// Bytes kept of a string that an error value may hold.
pub const ERROR_TEXT_MAX: usize = 96;

/// One Go value behind an interface, as far as it could be read without knowing its type: the type's address (0
/// if there is none), and what the data would be as a string, for user space to interpret by the type's name.
#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ErrorValue {
    /// Address of the `runtime._type` in the process.
    pub type_address: u64,
    /// The first word of the data: an `Errno` as a number.
    pub word: u64,
    pub text_len: u32,
    pub _pad: u32,
    /// The bytes behind the data's first two words, taken as a string.
    pub text: [u8; ERROR_TEXT_MAX],
}

const _: () = assert!(size_of::<ErrorValue>() == 120);

/// Errors of a failed call: the value itself, then what lies at the places where Go's error types keep the
/// error they wrap.
pub const ERROR_CHAIN: usize = 4;

/// A failed call's error, read blindly. `values[0]` is the error; `values[1]` what an interface in its first two
/// words holds; `values[2]` what an interface at `net.OpError.Err` holds; `values[3]` what an interface at
/// `os.SyscallError.Err` in `values[2]` holds.
#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ErrorSnapshot {
    pub values: [ErrorValue; ERROR_CHAIN],
}

const _: () = assert!(size_of::<ErrorSnapshot>() == 480);

/// A call that a client has finished. Exit span. An [`ErrorSnapshot`] follows the strings' lengths and precedes
/// the strings where [`CALL_FAILED`] is set.
#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallEvent {
    pub header: EventHeader,
    /// `CLOCK_BOOTTIME` when `Transport.roundTrip` began.
    pub start_ns: u64,
    /// `CLOCK_BOOTTIME` when it returned.
    pub end_ns: u64,
    pub goid: u64,
    /// The parent's goroutine, where there is a parent.
    pub parent_goid: u64,
    pub trace_id: [u8; 16],
    /// The parent request's segment, or its own.
    pub segment_id: [u8; 16],
    /// `Response.ContentLength`: -1 where unknown.
    pub response_bytes: i64,
    /// 0 for the root of its own segment.
    pub span_id: u32,
    pub parent: ParentFound,
    /// `CALL_*`.
    pub flags: u32,
    /// [`crate::propagation::Outcome`] by number.
    pub propagation: u32,
    pub status: u16,
    pub method_len: u16,
    /// `URL.Scheme`.
    pub scheme_len: u16,
    /// `URL.Host`, with the scheme's default port where it names none: the peer.
    pub peer_len: u16,
    pub path_len: u16,
    pub _pad: [u8; 6],
}

const _: () = assert!(size_of::<CallEvent>() == 112);
