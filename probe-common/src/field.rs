//! Every field of a Go struct that a kernel program reads, one number each; the offsets of one binary.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $package:literal, $strukt:literal, $field:literal;)*) => {
        /// A struct field of the target's program whose offset the kernel programs need.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum GoField {
            $($(#[$doc])* $variant = $number,)*
        }

        impl GoField {
            /// All fields, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Package path, struct name and field name, as DWARF spells them (`net/http`, `Request`, `Method`).
            pub const fn path(self) -> (&'static str, &'static str, &'static str) {
                match self {
                    $(Self::$variant => ($package, $strukt, $field),)*
                }
            }
        }
    };
}

fields! {
    GGoid = 0, "runtime", "g", "goid";
    /// Since Go 1.21.
    GParentGoid = 1, "runtime", "g", "parentGoid";
    GM = 2, "runtime", "g", "m";
    MP = 3, "runtime", "m", "p";
    PGoidcache = 4, "runtime", "p", "goidcache";
    PGoidcacheend = 5, "runtime", "p", "goidcacheend";
    RequestMethod = 6, "net/http", "Request", "Method";
    RequestUrl = 7, "net/http", "Request", "URL";
    RequestProtoMajor = 8, "net/http", "Request", "ProtoMajor";
    RequestContentLength = 9, "net/http", "Request", "ContentLength";
    RequestHost = 10, "net/http", "Request", "Host";
    RequestCtx = 11, "net/http", "Request", "ctx";
    /// Since Go 1.23.
    RequestPattern = 12, "net/http", "Request", "Pattern";
    UrlScheme = 13, "net/url", "URL", "Scheme";
    UrlHost = 14, "net/url", "URL", "Host";
    UrlPath = 15, "net/url", "URL", "Path";
    ResponseStatusCode = 16, "net/http", "Response", "StatusCode";
    ResponseContentLength = 17, "net/http", "Response", "ContentLength";
    ServerResponseConn = 18, "net/http", "response", "conn";
    ServerResponseReq = 19, "net/http", "response", "req";
    ServerResponseStatus = 20, "net/http", "response", "status";
    ServerResponseWritten = 21, "net/http", "response", "written";
    ConnBufr = 22, "net/http", "conn", "bufr";
    ConnTlsState = 23, "net/http", "conn", "tlsState";
    BufioReaderBuf = 24, "bufio", "Reader", "buf";
    BufioReaderR = 25, "bufio", "Reader", "r";
    PersistConnConn = 26, "net/http", "persistConn", "conn";
    PersistConnTlsState = 27, "net/http", "persistConn", "tlsState";
    NetFdNet = 28, "net", "netFD", "net";
    NetFdLaddr = 29, "net", "netFD", "laddr";
    NetFdRaddr = 30, "net", "netFD", "raddr";
    TcpAddrIp = 31, "net", "TCPAddr", "IP";
    TcpAddrPort = 32, "net", "TCPAddr", "Port";
    CancelCtxErr = 33, "context", "cancelCtx", "err";
    GrpcClientStreamCallHdr = 34, "google.golang.org/grpc", "clientStream", "callHdr";
    GrpcClientStreamCtx = 35, "google.golang.org/grpc", "clientStream", "ctx";
    GrpcClientStreamCc = 36, "google.golang.org/grpc", "clientStream", "cc";
    GrpcClientStreamDesc = 37, "google.golang.org/grpc", "clientStream", "desc";
    GrpcClientConnTarget = 38, "google.golang.org/grpc", "ClientConn", "target";
    GrpcStreamDescServerStreams = 39, "google.golang.org/grpc", "StreamDesc", "ServerStreams";
    GrpcStreamDescClientStreams = 40, "google.golang.org/grpc", "StreamDesc", "ClientStreams";
    GrpcCallHdrMethod = 41, "google.golang.org/grpc/internal/transport", "CallHdr", "Method";
    GrpcStreamId = 42, "google.golang.org/grpc/internal/transport", "Stream", "id";
    GrpcStreamMethod = 43, "google.golang.org/grpc/internal/transport", "Stream", "method";
    GrpcStreamCtx = 44, "google.golang.org/grpc/internal/transport", "Stream", "ctx";
    /// Since grpc-go 1.69, where the server's stream has the common one as its first field: by pointer up to 1.76
    /// (then this is 8), by value afterwards.
    GrpcServerStreamSt = 45, "google.golang.org/grpc/internal/transport", "ServerStream", "st";
    GrpcStatusErrorS = 46, "google.golang.org/grpc/internal/status", "Error", "s";
    GrpcStatusS = 47, "google.golang.org/grpc/internal/status", "Status", "s";
    GrpcStatusCode = 48, "google.golang.org/genproto/googleapis/rpc/status", "Status", "Code";
    GrpcStatusMessage = 49, "google.golang.org/genproto/googleapis/rpc/status", "Status", "Message";
    MetaHeadersFrameFields = 50, "golang.org/x/net/http2", "MetaHeadersFrame", "Fields";
    FrameHeaderStreamId = 51, "golang.org/x/net/http2", "FrameHeader", "StreamID";
    GrpcLoopyWriterFramer = 52, "google.golang.org/grpc/internal/transport", "loopyWriter", "framer";
    GrpcFramerWriter = 53, "google.golang.org/grpc/internal/transport", "framer", "writer";
    GrpcBufWriterConn = 54, "google.golang.org/grpc/internal/transport", "bufWriter", "conn";
    GrpcServerStreamS = 55, "google.golang.org/grpc", "serverStream", "s";
    /// In versions that serve calls of one message each way as streams, too, and in some before.
    GrpcServerStreamDesc = 56, "google.golang.org/grpc", "serverStream", "desc";
    GPanic = 57, "runtime", "g", "_panic";
    // HTTP/2 of the standard library, as Go 1.27 spells it: `instrument::offset` has the earlier spelling, and where a
    // struct came only then, the one that was there before.
    Http2Fields = 58, "net/http/internal/http2", "MetaHeadersFrame", "Fields";
    Http2StreamId = 59, "net/http/internal/http2", "FrameHeader", "StreamID";
    Http2WriterState = 60, "net/http/internal/http2", "responseWriter", "rws";
    Http2WriterStream = 61, "net/http/internal/http2", "responseWriterState", "stream";
    Http2WriterStatus = 62, "net/http/internal/http2", "responseWriterState", "status";
    Http2WriterBytes = 63, "net/http/internal/http2", "responseWriterState", "wroteBytes";
    Http2ServerStreamId = 64, "net/http/internal/http2", "stream", "id";
    Http2ServerTlsState = 65, "net/http/internal/http2", "serverConn", "tlsState";
    Http2ClientStreamConn = 66, "net/http/internal/http2", "clientStream", "cc";
    Http2ClientStreamId = 67, "net/http/internal/http2", "clientStream", "ID";
    Http2ClientConn = 68, "net/http/internal/http2", "ClientConn", "tconn";
    Http2ClientTlsState = 69, "net/http/internal/http2", "ClientConn", "tlsState";
    Http2RequestMethod = 70, "net/http/internal/http2", "ServerRequest", "Method";
    Http2RequestUrl = 71, "net/http/internal/http2", "ServerRequest", "URL";
    Http2RequestHost = 72, "net/http/internal/http2", "ServerRequest", "Host";
    Http2RequestContentLength = 73, "net/http/internal/http2", "ServerRequest", "ContentLength";
    Http2RequestContext = 74, "net/http/internal/http2", "ServerRequest", "Context";
    // The same of `golang.org/x/net`, beside the two above.
    XHttp2WriterState = 75, "golang.org/x/net/http2", "responseWriter", "rws";
    XHttp2WriterStream = 76, "golang.org/x/net/http2", "responseWriterState", "stream";
    XHttp2WriterStatus = 77, "golang.org/x/net/http2", "responseWriterState", "status";
    XHttp2WriterBytes = 78, "golang.org/x/net/http2", "responseWriterState", "wroteBytes";
    XHttp2ServerStreamId = 79, "golang.org/x/net/http2", "stream", "id";
    XHttp2ServerTlsState = 80, "golang.org/x/net/http2", "serverConn", "tlsState";
    XHttp2ClientStreamConn = 81, "golang.org/x/net/http2", "clientStream", "cc";
    XHttp2ClientStreamId = 82, "golang.org/x/net/http2", "clientStream", "ID";
    XHttp2ClientConn = 83, "golang.org/x/net/http2", "ClientConn", "tconn";
    XHttp2ClientTlsState = 84, "golang.org/x/net/http2", "ClientConn", "tlsState";
    RequestHeader = 85, "net/http", "Request", "Header";
    Http2ClientRequestHeader = 86, "net/http/internal/http2", "ClientRequest", "Header";
    /// Since Go 1.24, as the next two.
    MapDirectory = 87, "internal/runtime/maps", "Map", "dirPtr";
    MapDirectoryLen = 88, "internal/runtime/maps", "Map", "dirLen";
    MapTableGroups = 89, "internal/runtime/maps", "table", "groups";
    ConnRwc = 90, "net/http", "conn", "rwc";
    GrpcHttp2ServerConn = 91, "google.golang.org/grpc/internal/transport", "http2Server", "conn";
    /// Before Go 1.24, as the next one.
    HmapB = 92, "runtime", "hmap", "B";
    HmapBuckets = 93, "runtime", "hmap", "buckets";
    Http2ServerConn = 94, "net/http/internal/http2", "serverConn", "conn";
    XHttp2ServerConn = 95, "golang.org/x/net/http2", "serverConn", "conn";
}

impl GoField {
    /// The module that the field's struct belongs to, and whose version decides its offset; `None` for Go's own.
    pub const fn module(self) -> Option<&'static str> {
        match self as u8 {
            0..34 | 57..75 | 85..=90 | 92..95 => None,
            48..50 => Some("google.golang.org/genproto/googleapis/rpc"),
            50..52 | 75..85 | 95 => Some("golang.org/x/net"),
            _ => Some("google.golang.org/grpc"),
        }
    }
}

/// Slots of an [`Offsets`] table; room for later fields without changing its size.
pub const FIELDS_MAX: usize = 128;

/// The offset of a field that this binary does not have.
pub const ABSENT: u16 = u16::MAX;

/// The field offsets of one binary, by the number of the [`GoField`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offsets(pub [u16; FIELDS_MAX]);

const _: () = assert!(size_of::<Offsets>() == 256);

impl Offsets {
    /// A table in which every field is absent.
    pub const NONE: Self = Self([ABSENT; FIELDS_MAX]);

    /// The offset of `field`, or [`ABSENT`].
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "masked, and a constant function cannot use `get`"
    )]
    pub const fn raw(&self, field: GoField) -> u16 {
        // Numbers are below `FIELDS_MAX`, as the test below checks; the kernel side must not panic.
        self.0[field as usize & (FIELDS_MAX - 1)]
    }

    /// The offset of `field` where the binary has it.
    #[inline(always)]
    pub const fn get(&self, field: GoField) -> Option<u64> {
        match self.raw(field) {
            ABSENT => None,
            offset => Some(offset as u64),
        }
    }

    /// Sets the offset of `field`.
    #[expect(
        clippy::indexing_slicing,
        reason = "masked, and a constant function cannot use `get`"
    )]
    pub const fn set(&mut self, field: GoField, offset: u16) {
        self.0[field as usize & (FIELDS_MAX - 1)] = offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_and_fit() {
        for (position, field) in GoField::ALL.iter().enumerate() {
            assert_eq!(*field as usize, position, "{field:?}");
        }
        assert!(GoField::ALL.len() <= FIELDS_MAX);
    }

    #[test]
    fn an_absent_field_has_no_offset() {
        let mut offsets = Offsets::NONE;
        assert_eq!(offsets.get(GoField::GGoid), None);
        offsets.set(GoField::GGoid, 160);
        assert_eq!(offsets.get(GoField::GGoid), Some(160));
    }
}
