//! The records of the ring buffer.

pub mod go;
pub mod process;

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// What a record is. Numbers are never reused; the holes leave room for neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(u32)]
pub enum EventKind {
    /// [`process::ProcessEvent`]: a process replaced its program.
    ProcessExec = 1,
    /// [`process::ProcessEvent`]: a process's first thread ended.
    ProcessExit = 2,
    /// [`go::net_http::RequestEvent`]: a server has finished a request.
    GoNetHttpRequest = 16,
    /// [`go::net_http::CallEvent`]: a client has its response, or its error.
    GoNetHttpCall = 17,
    /// [`go::net_http::RequestEvent`]: a grpc-go server has answered a call. See [`go::grpc`].
    GoGrpcRequest = 18,
    /// [`go::net_http::CallEvent`]: a grpc-go client's call is over. See [`go::grpc`].
    GoGrpcCall = 19,
    /// [`go::net_http::RequestEvent`]: a server has answered a request by HTTP/2. See [`go::http2`].
    GoHttp2Request = 20,
    /// [`go::net_http::CallEvent`]: a call of an HTTP/2 client is over. See [`go::http2`].
    GoHttp2Call = 21,
}

impl EventKind {
    /// Bytes of the fixed part of this kind's record.
    pub const fn size(self) -> usize {
        match self {
            Self::ProcessExec | Self::ProcessExit => size_of::<process::ProcessEvent>(),
            Self::GoNetHttpRequest | Self::GoGrpcRequest | Self::GoHttp2Request => {
                size_of::<go::net_http::RequestEvent>()
            }
            Self::GoNetHttpCall | Self::GoGrpcCall | Self::GoHttp2Call => {
                size_of::<go::net_http::CallEvent>()
            }
        }
    }
}

/// The start of every record; `event::decode` relies on it being first.
#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventHeader {
    pub kind: EventKind,
    /// The process, in the initial pid namespace.
    pub tgid: u32,
}

const _: () = assert!(size_of::<EventHeader>() == 8);

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_header_comes_first() {
        assert_eq!(offset_of!(process::ProcessEvent, header), 0);
        assert_eq!(offset_of!(go::net_http::RequestEvent, header), 0);
        assert_eq!(offset_of!(go::net_http::CallEvent, header), 0);
    }
}
