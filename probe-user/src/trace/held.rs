//! What waits for the rest of its segment, and what is remembered of segments sent without theirs.

use std::sync::Arc;

use super::{segment::Identity, span::Span};

/// The spans of a segment that is not whole yet. Never empty.
#[derive(Debug)]
pub(super) struct Held {
    /// Smaller is older.
    pub number: u64,
    pub tgid: u32,
    /// Who the process was when the first span came.
    pub identity: Arc<Identity>,
    /// As far as calls know it: not when it came from another process.
    pub trace_id: Option<String>,
    pub calls: Vec<Span>,
    pub request: Option<HeldRequest>,
    /// Boot time at which it is sent as it is.
    pub until_ns: u64,
    /// Its process has ended: nothing will come that is not in the ring.
    pub target_gone: bool,
}

/// A finished request whose calls have not all come.
#[derive(Debug)]
pub(super) struct HeldRequest {
    pub trace_id: String,
    pub span: Span,
    /// How many calls found it as their parent.
    pub expected: usize,
}

/// A segment that was sent though something of it may still come.
#[derive(Debug)]
pub(super) struct Sent {
    pub trace_id: String,
    /// Its request asked OAP to leave its spans out of metrics and topology.
    pub skip_analysis: bool,
    /// Boot time at which it is forgotten.
    pub until_ns: u64,
}

impl Held {
    pub(super) fn is_complete(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(|request| self.calls.len() >= request.expected)
    }

    pub(super) fn spans(&self) -> usize {
        self.calls.len() + usize::from(self.request.is_some())
    }
}
