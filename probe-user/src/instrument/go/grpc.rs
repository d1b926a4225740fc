//! grpc-go: server and client.

use probe_common::field::GoField;

use crate::instrument::{Hook, Instrumentation, ModuleChange, OnMissing, Part, Side, SiteKind, Versions};

const ALL: Versions = Versions {
    since: 19,
    before: None,
    module: None,
};

/// `operateHeaders` got as its first argument the context that the transport had kept.
const CONTEXT_FIRST: ModuleChange = ModuleChange {
    module: "google.golang.org/grpc",
    since: (1, 60),
    lost: ("google.golang.org/grpc/internal/transport.http2Server", "ctx"),
};

const fn module(side: Side, change: &'static ModuleChange) -> Versions {
    Versions {
        module: Some((side, change)),
        ..ALL
    }
}

const OPERATE_HEADERS: Hook = Hook {
    program: "go_grpc_operate_headers",
    symbols: &["google.golang.org/grpc/internal/transport.(*http2Server).operateHeaders"],
    site: SiteKind::StackCheck,
    versions: module(Side::Since, &CONTEXT_FIRST),
    part: Part::GrpcServer,
    on_missing: OnMissing::Degrade("traces that come in by gRPC are not continued"),
    needs: &[GoField::MetaHeadersFrameFields, GoField::FrameHeaderStreamId],
    wants: &[],
};

const WRITE_STATUS: Hook = Hook {
    program: "go_grpc_write_status",
    symbols: &[
        "google.golang.org/grpc/internal/transport.(*http2Server).writeStatus",
        "google.golang.org/grpc/internal/transport.(*http2Server).WriteStatus",
    ],
    site: SiteKind::StackCheck,
    versions: ALL,
    part: Part::GrpcServer,
    on_missing: OnMissing::Refuse,
    needs: &[GoField::GrpcStatusS, GoField::GrpcStatusCode],
    wants: &[],
};

/// Whose code says where it keeps its receiver.
pub const RECV_MSG: &str = "google.golang.org/grpc.(*clientStream).RecvMsg";

/// The programs that count the messages of streams which are served, and of those which are opened: all or none.
pub const COUNT_SERVED: &[&str] = &["go_grpc_server_sent", "go_grpc_server_received"];
pub const COUNT_CALLED: &[&str] = &["go_grpc_client_sent", "go_grpc_client_received"];

const SERVER_SENT: Hook = Hook {
    program: "go_grpc_server_sent",
    symbols: &["google.golang.org/grpc.(*serverStream).SendMsg.func1"],
    site: SiteKind::StackCheck,
    versions: ALL,
    part: Part::GrpcServer,
    on_missing: OnMissing::Degrade("messages of streams that are served are not counted"),
    needs: &[GoField::GrpcServerStreamS],
    wants: &[
        GoField::GrpcServerStreamDesc,
        GoField::GrpcStreamDescClientStreams,
        GoField::GrpcStreamDescServerStreams,
    ],
};

const CLIENT_SENT: Hook = Hook {
    program: "go_grpc_client_sent",
    symbols: &["google.golang.org/grpc.(*clientStream).SendMsg.func1"],
    part: Part::GrpcClient,
    on_missing: OnMissing::Degrade("messages of streams that are opened are not counted"),
    needs: &[],
    wants: &[],
    ..SERVER_SENT
};

pub const GRPC: Instrumentation = Instrumentation {
    library: "google.golang.org/grpc",
    hooks: &[
        OPERATE_HEADERS,
        Hook {
            program: "go_grpc_operate_headers_without_context",
            versions: module(Side::Before, &CONTEXT_FIRST),
            ..OPERATE_HEADERS
        },
        Hook {
            program: "go_grpc_handle_stream",
            symbols: &["google.golang.org/grpc.(*Server).handleStream"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::GrpcServer,
            on_missing: OnMissing::Refuse,
            needs: &[
                GoField::GrpcStreamId,
                GoField::GrpcStreamMethod,
                GoField::GrpcStreamCtx,
            ],
            wants: &[
                GoField::GrpcServerStreamSt,
                // What names the connection, for hops over TLS.
                GoField::GrpcHttp2ServerConn,
                GoField::NetFdNet,
                GoField::NetFdLaddr,
                GoField::NetFdRaddr,
                GoField::TcpAddrIp,
                GoField::TcpAddrPort,
            ],
        },
        Hook {
            program: "go_grpc_handler_streams",
            symbols: &["google.golang.org/grpc/internal/transport.(*serverHandlerTransport).HandleStreams"],
            on_missing: OnMissing::Unused("calls that come by an http.Handler have two spans"),
            needs: &[],
            ..WRITE_STATUS
        },
        WRITE_STATUS,
        Hook {
            symbols: &[
                "google.golang.org/grpc/internal/transport.(*serverHandlerTransport).writeStatus",
                "google.golang.org/grpc/internal/transport.(*serverHandlerTransport).WriteStatus",
            ],
            on_missing: OnMissing::Unused("calls that come by an http.Handler have no span"),
            ..WRITE_STATUS
        },
        SERVER_SENT,
        Hook {
            program: "go_grpc_server_received",
            symbols: &["google.golang.org/grpc.(*serverStream).RecvMsg.func1"],
            ..SERVER_SENT
        },
        Hook {
            program: "go_grpc_new_attempt",
            symbols: &["google.golang.org/grpc.(*clientStream).newAttemptLocked"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::GrpcClient,
            on_missing: OnMissing::Refuse,
            needs: &[
                GoField::GrpcClientStreamCallHdr,
                GoField::GrpcClientStreamCtx,
                GoField::GrpcClientStreamCc,
                GoField::GrpcClientStreamDesc,
                GoField::GrpcClientConnTarget,
                GoField::GrpcStreamDescServerStreams,
                GoField::GrpcStreamDescClientStreams,
                GoField::GrpcCallHdrMethod,
            ],
            wants: &[],
        },
        Hook {
            program: "go_grpc_header_fields",
            symbols: &["google.golang.org/grpc/internal/transport.(*http2Client).NewStream"],
            // A slice, then the error.
            site: SiteKind::AfterCall {
                callee: "google.golang.org/grpc/internal/transport.(*http2Client).createHeaderFields",
                error: 4,
            },
            on_missing: OnMissing::Degrade("outgoing gRPC calls carry no sw8"),
            versions: ALL,
            part: Part::GrpcClient,
            needs: &[],
            wants: &[],
        },
        Hook {
            program: "go_grpc_write_header",
            // Clients alone go by these: the first since grpc-go 1.82.1.
            symbols: &[
                "google.golang.org/grpc/internal/transport.(*loopyWriter).clientHeaderHandler",
                "google.golang.org/grpc/internal/transport.(*loopyWriter).originateStream",
            ],
            site: SiteKind::Call {
                callee: "google.golang.org/grpc/internal/transport.(*loopyWriter).writeHeader",
            },
            on_missing: OnMissing::Degrade("outgoing gRPC calls carry no sw8"),
            versions: ALL,
            part: Part::GrpcClient,
            needs: &[
                GoField::GrpcLoopyWriterFramer,
                GoField::GrpcFramerWriter,
                GoField::GrpcBufWriterConn,
                GoField::NetFdNet,
                GoField::NetFdLaddr,
                GoField::NetFdRaddr,
                GoField::TcpAddrIp,
                GoField::TcpAddrPort,
            ],
            wants: &[],
        },
        Hook {
            program: "go_grpc_retry",
            symbols: &["google.golang.org/grpc.(*clientStream).retryLocked"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::GrpcClient,
            // A call whose end is not seen would be taken for the next one at its address.
            on_missing: OnMissing::Refuse,
            needs: &[],
            wants: &[],
        },
        Hook {
            program: "go_grpc_retry_return",
            symbols: &["google.golang.org/grpc.(*clientStream).retryLocked"],
            site: SiteKind::EachReturn,
            versions: ALL,
            part: Part::GrpcClient,
            on_missing: OnMissing::Refuse,
            needs: &[],
            wants: &[],
        },
        Hook {
            program: "go_grpc_finish",
            symbols: &["google.golang.org/grpc.(*clientStream).finish"],
            site: SiteKind::StackCheck,
            versions: ALL,
            part: Part::GrpcClient,
            on_missing: OnMissing::Refuse,
            // The error's status is not read before grpc-go 1.40, where its type had another form.
            needs: &[
                GoField::GrpcStatusErrorS,
                GoField::GrpcStatusS,
                GoField::GrpcStatusCode,
                GoField::GrpcStatusMessage,
            ],
            wants: &[],
        },
        CLIENT_SENT,
        Hook {
            program: "go_grpc_client_received",
            symbols: &[RECV_MSG],
            site: SiteKind::Result {
                callee: "google.golang.org/grpc.(*clientStream).withRetry",
            },
            ..CLIENT_SENT
        },
    ],
};
