//! The rows: programs, and what they are asked for.

use super::{
    rpc,
    scene::{Ends, Work},
    variant::By,
};

/// One row.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) work: Work,
    /// In the order of their turns.
    pub(super) by: &'static [By],
    /// That a request has, by whoever traces all of it; as many are expected at the sink.
    pub(super) spans: u32,
    pub(super) segments: u32,
    /// Whether it is measured when no row is named.
    pub(super) by_default: bool,
}

const ALL: &[By] = &[By::Nobody, By::Skyprobe, By::OpenTelemetry];
/// What others cost a single end is in their turns of both.
const OURS: &[By] = &[By::Nobody, By::Skyprobe];

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "hello-world",
        work: Work::Http {
            length: 1,
            path: "/hello",
        },
        by: ALL,
        spans: 1,
        segments: 1,
        by_default: true,
    },
    Row {
        name: "100 µs of work",
        work: Work::Http {
            length: 1,
            path: "/work",
        },
        by: ALL,
        spans: 1,
        segments: 1,
        by_default: true,
    },
    Row {
        name: "chain of three",
        work: Work::Http {
            length: 3,
            path: "/chain",
        },
        by: &[
            By::Nobody,
            By::Skyprobe,
            By::SkyprobeWithoutHeaders,
            By::OpenTelemetry,
        ],
        spans: 5,
        segments: 3,
        by_default: true,
    },
    Row {
        name: "gRPC unary",
        work: Work::Rpc {
            work: rpc::UNARY,
            traced: Ends::Both,
        },
        by: ALL,
        spans: 2,
        segments: 2,
        by_default: true,
    },
    Row {
        name: "gRPC unary, the server alone",
        work: Work::Rpc {
            work: rpc::UNARY,
            traced: Ends::Server,
        },
        by: OURS,
        spans: 1,
        segments: 1,
        by_default: false,
    },
    Row {
        name: "gRPC unary, the client alone",
        work: Work::Rpc {
            work: rpc::UNARY,
            traced: Ends::Client,
        },
        by: OURS,
        spans: 1,
        segments: 1,
        by_default: false,
    },
    Row {
        name: "1,000 streams",
        work: Work::Rpc {
            work: rpc::STREAMS,
            traced: Ends::Both,
        },
        by: ALL,
        spans: 2,
        segments: 2,
        by_default: true,
    },
];
