//! `net/http`, HTTP/1.x: server and client.

use probe_common::field::GoField;

use crate::instrument::{Hook, Instrumentation, OnMissing, Part, SiteKind, Versions};

const ALL: Versions = Versions {
    since: 19,
    before: None,
    module: None,
};

pub const NET_HTTP: Instrumentation = Instrumentation {
    library: "net/http",
    hooks: &[
        Hook {
            program: "go_net_http_serve_http",
            symbols: &["net/http.serverHandler.ServeHTTP"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::HttpServer,
            on_missing: OnMissing::Refuse,
            needs: &[
                GoField::RequestMethod,
                GoField::RequestUrl,
                GoField::RequestProtoMajor,
                GoField::RequestContentLength,
                GoField::RequestHost,
                GoField::RequestCtx,
                GoField::UrlPath,
                GoField::ServerResponseConn,
                GoField::ConnBufr,
                GoField::ConnTlsState,
                GoField::BufioReaderBuf,
                GoField::BufioReaderR,
            ],
            wants: &[
                GoField::RequestPattern,
                // What names the connection, for hops over TLS.
                GoField::ConnRwc,
                GoField::NetFdNet,
                GoField::NetFdLaddr,
                GoField::NetFdRaddr,
                GoField::TcpAddrIp,
                GoField::TcpAddrPort,
            ],
        },
        Hook {
            program: "go_net_http_finish_request",
            symbols: &["net/http.(*response).finishRequest"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::HttpServer,
            on_missing: OnMissing::Refuse,
            needs: &[
                GoField::ServerResponseReq,
                GoField::ServerResponseStatus,
                GoField::ServerResponseWritten,
            ],
            wants: &[GoField::RequestPattern, GoField::CancelCtxErr],
        },
        Hook {
            program: "go_net_http_hijack",
            symbols: &["net/http.(*response).Hijack"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::HttpServer,
            on_missing: OnMissing::Unused("requests whose connection the handler takes over end late"),
            needs: &[],
            wants: &[],
        },
        Hook {
            program: "go_net_http_conn_close",
            // Its own body in every version, called by the deferred function of `(*conn).serve` alone: also after
            // a handler's panic, not for a connection that was taken over.
            symbols: &["net/http.(*conn).close"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::HttpServer,
            on_missing: OnMissing::Degrade("requests whose handler panics end late"),
            needs: &[],
            wants: &[],
        },
        Hook {
            program: "go_net_http_round_trip",
            symbols: &["net/http.(*Transport).roundTrip"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::HttpClient,
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
            program: "go_net_http_round_trip_success",
            symbols: &["net/http.(*Transport).roundTrip"],
            site: SiteKind::Success {
                callee: "net/http.(*persistConn).roundTrip",
            },
            versions: ALL,
            part: Part::HttpClient,
            on_missing: OnMissing::Refuse,
            needs: &[GoField::ResponseStatusCode, GoField::ResponseContentLength],
            wants: &[],
        },
        Hook {
            program: "go_net_http_round_trip_alternative",
            // Calls by HTTP/2 over TLS are made by a round tripper of their own.
            symbols: &["net/http.(*Transport).roundTrip"],
            site: SiteKind::Alternative,
            versions: ALL,
            part: Part::HttpClient,
            on_missing: OnMissing::Refuse,
            needs: &[GoField::ResponseStatusCode, GoField::ResponseContentLength],
            wants: &[],
        },
        Hook {
            program: "go_net_http_round_trip_return",
            symbols: &["net/http.(*Transport).roundTrip"],
            // Which failure is the last one, and which is tried again, shows only when it is returned.
            site: SiteKind::Returns {
                but_success_of: "net/http.(*persistConn).roundTrip",
            },
            versions: ALL,
            part: Part::HttpClient,
            on_missing: OnMissing::Refuse,
            needs: &[GoField::ResponseStatusCode, GoField::ResponseContentLength],
            wants: &[],
        },
        Hook {
            program: "go_net_http_persist_conn_round_trip",
            symbols: &["net/http.(*persistConn).roundTrip"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::HttpClient,
            on_missing: OnMissing::Degrade("outgoing requests carry no sw8"),
            needs: &[
                GoField::PersistConnConn,
                GoField::PersistConnTlsState,
                GoField::NetFdNet,
                GoField::NetFdLaddr,
                GoField::NetFdRaddr,
                GoField::TcpAddrIp,
                GoField::TcpAddrPort,
            ],
            wants: &[],
        },
    ],
};
