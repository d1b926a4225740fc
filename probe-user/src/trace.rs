//! The pure heart: events in, segments out. Knows no clock, file, socket or kernel.

pub mod segment;
pub mod span;
