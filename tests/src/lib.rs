//! The test harness.

pub mod bpf;
pub mod cgroup;
pub mod client;
pub mod container;
pub mod deploy;
pub mod fake_oap;
pub mod go_http2;
pub mod graphql;
pub mod held;
pub mod http2;
pub mod kubernetes;
pub mod line;
pub mod machine;
pub mod network;
pub mod oap;
pub mod page;
pub mod pods;
pub mod probe;
pub mod rpc;
pub mod scene;
pub mod scrape;
pub mod segment;
pub mod skip;
pub mod target;
pub mod truth;
pub mod wire;
