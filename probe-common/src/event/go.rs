//! Records of instrumented Go libraries: one module per library.

pub mod grpc;
pub mod http2;
pub mod net_http;
