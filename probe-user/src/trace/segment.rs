//! A segment: the spans of one process within one trace.

use std::sync::Arc;

use super::span::Span;

/// Who reports a segment. Shared by all segments of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub service: String,
    pub instance: String,
}

/// What one process did for one trace, in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub trace_id: String,
    pub segment_id: String,
    pub identity: Arc<Identity>,
    /// Never empty; one of them has the id 0.
    pub spans: Vec<Span>,
}
