//! Trace contexts as headers carry them.

pub mod sw8;
pub mod traceparent;
