//! The test harness.

pub mod client;
pub mod probe;
pub mod segment;
pub mod target;
pub mod truth;
