//! SkyWalking's wire types, generated from `skywalking/*.proto`; package `skywalking.v3`.
//!
//! The files state facts of the wire (numbers, types, names) in our own words. `tests/wire.rs` pins them.
//!
//! | service | what it takes |
//! | --- | --- |
//! | `TraceSegmentReportService` | segments |
//! | `SpanAttachedEventReportService` | kernel facts for a span |
//! | `ManagementService` | properties and heartbeats of instances |
//! | `ConfigurationDiscoveryService` | asks for settings |
//! | `MeterReportService` | metrics |
//! | `LogReportService` | log lines |
//! | `EventService` | events of a service |
//!
//! The feature `server` adds the server halves, for the fake OAP of the tests.

/// The package `skywalking.v3`.
#[expect(
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated code has its own style"
)]
#[cfg_attr(
    feature = "server",
    expect(clippy::allow_attributes, reason = "generated code has its own style")
)]
pub mod v3 {
    tonic::include_proto!("skywalking.v3");
}
