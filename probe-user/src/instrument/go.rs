//! The Go libraries that are traced.

pub mod grpc;
pub mod http2;
pub mod net_http;
pub mod runtime;

use crate::instrument::Instrumentation;

/// Every library's manifest.
pub const LIBRARIES: &[&Instrumentation] =
    &[&net_http::NET_HTTP, &http2::HTTP2, &http2::X_HTTP2, &grpc::GRPC];

/// Functions of agents that report to SkyWalking from within the program, by how their names begin. Importing such
/// a module is not enough: `skywalking-go` works only when its build tool has put code into the runtime.
pub const AGENTS: &[(&str, &str)] = &[
    ("runtime._skywalking_", "skywalking-go"),
    ("github.com/apache/skywalking-go/plugins/", "skywalking-go"),
    ("github.com/SkyAPM/go2sky.", "go2sky"),
    ("github.com/SkyAPM/go2sky/", "go2sky"),
];
