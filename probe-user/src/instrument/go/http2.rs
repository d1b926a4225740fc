//! HTTP/2 of Go's own packages: the one within `net/http`, and `golang.org/x/net/http2`.
//!
//! The first stands in `net/http` itself before Go 1.27, and in a package of its own since. The second has the same
//! functions; from some version on, and with Go 1.27, it only hands on to the first.

use probe_common::field::GoField;

use crate::instrument::{Hook, Instrumentation, OnMissing, Part, SiteKind, Versions};

const fn go(since: u16, before: Option<u16>) -> Versions {
    Versions {
        since,
        before,
        module: None,
    }
}

const ALL: Versions = go(19, None);
/// Within `net/http`.
const BUNDLED: Versions = go(19, Some(27));
/// In a package of its own.
const APART: Versions = go(27, None);
/// Before it a goroutine does not know its creator.
const CREATOR_KNOWN: u16 = 21;
/// Before it `net/http` alone speaks HTTP/2 only over TLS.
const UNENCRYPTED: u16 = 24;

const NO_HEADERS: OnMissing = OnMissing::Degrade("traces that come in by HTTP/2 are not continued");
const NO_SW8: OnMissing = OnMissing::Degrade("outgoing HTTP/2 calls carry no sw8");

const PROCESS_HEADERS: Hook = Hook {
    program: "go_http2_process_headers",
    symbols: &[
        "net/http/internal/http2.(*serverConn).processHeaders",
        "net/http.(*http2serverConn).processHeaders",
    ],
    site: SiteKind::StackCheck,
    versions: ALL,
    part: Part::Http2Server,
    on_missing: NO_HEADERS,
    needs: &[GoField::Http2Fields, GoField::Http2StreamId],
    wants: &[],
};

const RUN_HANDLER: Hook = Hook {
    program: "go_http2_run_handler",
    symbols: &[
        "net/http/internal/http2.(*serverConn).runHandler",
        "net/http.(*http2serverConn).runHandler",
    ],
    site: SiteKind::StackCheck,
    versions: ALL,
    part: Part::Http2Server,
    on_missing: OnMissing::Refuse,
    needs: &[
        GoField::Http2RequestMethod,
        GoField::Http2RequestUrl,
        GoField::Http2RequestHost,
        GoField::Http2RequestContentLength,
        GoField::Http2RequestContext,
        GoField::UrlPath,
        GoField::Http2WriterState,
        GoField::Http2WriterStream,
        GoField::Http2ServerStreamId,
        GoField::Http2ServerTlsState,
    ],
    wants: &[GoField::Http2ServerConn],
};

/// The function that `runHandler` defers: it runs however the handler ends, and calls `handlerDone` if it has returned.
const HANDLER_END: Hook = Hook {
    program: "go_http2_handler_end",
    symbols: &[
        "net/http/internal/http2.(*serverConn).runHandler.func1",
        "net/http/internal/http2.(*serverConn).runHandler.func2",
    ],
    site: SiteKind::Calling {
        callee: "net/http/internal/http2.(*responseWriter).handlerDone",
    },
    versions: APART,
    part: Part::Http2Server,
    on_missing: OnMissing::Refuse,
    needs: &[
        GoField::Http2WriterState,
        GoField::Http2WriterStatus,
        GoField::Http2WriterBytes,
        GoField::GPanic,
    ],
    wants: &[GoField::RequestPattern, GoField::CancelCtxErr],
};

/// The goroutine that is about to write a stream's headers is one of the stream's own.
const ENCODE_HEADERS: Hook = Hook {
    program: "go_http2_encode_headers",
    symbols: &[
        "net/http/internal/http2.(*clientStream).encodeAndWriteHeaders",
        "net/http.(*http2clientStream).encodeAndWriteHeaders",
    ],
    site: SiteKind::StackCheck,
    versions: go(UNENCRYPTED, None),
    part: Part::Http2Client,
    on_missing: NO_SW8,
    needs: &[
        GoField::Http2ClientRequestHeader,
        GoField::MapDirectory,
        GoField::MapDirectoryLen,
        GoField::MapTableGroups,
        GoField::HmapB,
        GoField::HmapBuckets,
        GoField::Http2ClientStreamConn,
        GoField::Http2ClientStreamId,
        GoField::Http2ClientConn,
        GoField::Http2ClientTlsState,
        GoField::NetFdNet,
        GoField::NetFdLaddr,
        GoField::NetFdRaddr,
        GoField::TcpAddrIp,
        GoField::TcpAddrPort,
    ],
    wants: &[],
};

/// On the caller's goroutine, with the request that the stream's goroutine gets.
const CONNECTION_ROUND_TRIP: Hook = Hook {
    program: "go_http2_connection_round_trip",
    symbols: &["net/http.(*http2ClientConn).RoundTrip"],
    site: SiteKind::StackCheck,
    versions: go(19, Some(CREATOR_KNOWN)),
    part: Part::HttpClient,
    on_missing: NO_SW8,
    needs: &[],
    wants: &[],
};

pub const HTTP2: Instrumentation = Instrumentation {
    library: "net/http/internal/http2",
    hooks: &[
        PROCESS_HEADERS,
        RUN_HANDLER,
        HANDLER_END,
        Hook {
            symbols: &[
                "net/http.(*http2serverConn).runHandler.func1",
                "net/http.(*http2serverConn).runHandler.func2",
            ],
            site: SiteKind::Calling {
                callee: "net/http.(*http2responseWriter).handlerDone",
            },
            versions: BUNDLED,
            ..HANDLER_END
        },
        ENCODE_HEADERS,
        Hook {
            versions: go(19, Some(UNENCRYPTED)),
            part: Part::HttpClient,
            ..ENCODE_HEADERS
        },
        CONNECTION_ROUND_TRIP,
    ],
};

/// The function that tries a call on one connection after another. From x/net 0.55 on it is no longer the one that
/// programs call, which may hand on to the standard library.
const X_ROUND_TRIP: &[&str] = &[
    "golang.org/x/net/http2.(*Transport).roundTripViaPool",
    "golang.org/x/net/http2.(*Transport).RoundTripOpt",
];

pub const X_HTTP2: Instrumentation = Instrumentation {
    library: "golang.org/x/net/http2",
    hooks: &[
        Hook {
            program: "go_x_http2_process_headers",
            symbols: &["golang.org/x/net/http2.(*serverConn).processHeaders"],
            part: Part::XHttp2Server,
            needs: &[GoField::MetaHeadersFrameFields, GoField::FrameHeaderStreamId],
            ..PROCESS_HEADERS
        },
        Hook {
            program: "go_x_http2_run_handler",
            symbols: &["golang.org/x/net/http2.(*serverConn).runHandler"],
            part: Part::XHttp2Server,
            needs: &[
                GoField::RequestMethod,
                GoField::RequestUrl,
                GoField::RequestHost,
                GoField::RequestContentLength,
                GoField::RequestCtx,
                GoField::UrlPath,
                GoField::XHttp2WriterState,
                GoField::XHttp2WriterStream,
                GoField::XHttp2ServerStreamId,
                GoField::XHttp2ServerTlsState,
            ],
            wants: &[GoField::XHttp2ServerConn],
            ..RUN_HANDLER
        },
        Hook {
            program: "go_x_http2_handler_end",
            symbols: &[
                "golang.org/x/net/http2.(*serverConn).runHandler.func1",
                "golang.org/x/net/http2.(*serverConn).runHandler.func2",
            ],
            site: SiteKind::Calling {
                callee: "golang.org/x/net/http2.(*responseWriter).handlerDone",
            },
            versions: ALL,
            part: Part::XHttp2Server,
            needs: &[
                GoField::XHttp2WriterState,
                GoField::XHttp2WriterStatus,
                GoField::XHttp2WriterBytes,
                GoField::GPanic,
            ],
            ..HANDLER_END
        },
        Hook {
            program: "go_x_http2_round_trip",
            symbols: X_ROUND_TRIP,
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::XHttp2Client,
            on_missing: OnMissing::Refuse,
            needs: &[
                GoField::RequestMethod,
                GoField::RequestUrl,
                GoField::RequestCtx,
                GoField::UrlScheme,
                GoField::UrlHost,
                GoField::UrlPath,
            ],
            wants: &[],
        },
        Hook {
            program: "go_x_http2_round_trip_success",
            symbols: X_ROUND_TRIP,
            site: SiteKind::NilReturned,
            versions: ALL,
            part: Part::XHttp2Client,
            on_missing: OnMissing::Refuse,
            needs: &[GoField::ResponseStatusCode, GoField::ResponseContentLength],
            wants: &[],
        },
        Hook {
            program: "go_x_http2_round_trip_return",
            symbols: X_ROUND_TRIP,
            site: SiteKind::ErrorReturns,
            versions: ALL,
            part: Part::XHttp2Client,
            on_missing: OnMissing::Refuse,
            needs: &[GoField::ResponseStatusCode, GoField::ResponseContentLength],
            wants: &[],
        },
        Hook {
            program: "go_x_http2_encode_headers",
            symbols: &["golang.org/x/net/http2.(*clientStream).encodeAndWriteHeaders"],
            versions: ALL,
            part: Part::XHttp2Client,
            needs: &[
                GoField::RequestHeader,
                GoField::MapDirectory,
                GoField::MapDirectoryLen,
                GoField::MapTableGroups,
                GoField::HmapB,
                GoField::HmapBuckets,
                GoField::XHttp2ClientStreamConn,
                GoField::XHttp2ClientStreamId,
                GoField::XHttp2ClientConn,
                GoField::XHttp2ClientTlsState,
                GoField::NetFdNet,
                GoField::NetFdLaddr,
                GoField::NetFdRaddr,
                GoField::TcpAddrIp,
                GoField::TcpAddrPort,
            ],
            ..ENCODE_HEADERS
        },
        Hook {
            symbols: &[
                "golang.org/x/net/http2.(*ClientConn).roundTrip",
                "golang.org/x/net/http2.(*ClientConn).RoundTrip",
            ],
            part: Part::XHttp2Client,
            ..CONNECTION_ROUND_TRIP
        },
    ],
};
