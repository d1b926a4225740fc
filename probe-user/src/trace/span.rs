//! A span, in SkyWalking's words.

use std::{borrow::Cow, sync::Arc};

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// A request that came in.
    Entry,
    /// A call that went out.
    Exit,
    /// Work inside the process.
    Local,
}

/// What kind of library made the span. Exporters turn it into component ids and layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    GoHttpServer,
    GoHttpClient,
    /// Server and client have one number.
    Grpc,
}

/// Whether a reference crosses a process or only a thread (here: a goroutine).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferenceKind {
    CrossProcess,
    CrossThread,
}

/// The span in another segment that caused this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub kind: ReferenceKind,
    pub trace_id: String,
    pub parent_segment_id: String,
    pub parent_span_id: i32,
    pub parent_service: String,
    pub parent_instance: String,
    pub parent_endpoint: String,
    /// The address the client used; equal to its Exit span's peer.
    pub network_address: String,
}

/// A searchable fact of a span. No key stands twice on a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub key: &'static str,
    /// Most are one of a few.
    pub value: Cow<'static, str>,
}

/// Something that happened at one time within a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanLog {
    /// Wall clock, nanoseconds since 1970.
    pub time_ns: u64,
    pub data: Vec<(&'static str, String)>,
}

/// One operation of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Counted from 0 within the segment.
    pub id: i32,
    /// -1 for the segment's root.
    pub parent_id: i32,
    /// Wall clock, nanoseconds since 1970.
    pub start_ns: u64,
    /// Never before `start_ns`.
    pub end_ns: u64,
    pub kind: SpanKind,
    pub component: Component,
    /// `METHOD:/path`, or `pkg.Service.Method`.
    pub operation: Arc<str>,
    /// Empty but for Exit spans.
    pub peer: String,
    pub is_error: bool,
    pub references: Vec<Reference>,
    pub tags: Vec<Tag>,
    pub logs: Vec<SpanLog>,
    /// `sw8-x` asked OAP to leave it out of metrics.
    pub skip_analysis: bool,
}

impl Span {
    /// The value of the tag `key`.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags
            .iter()
            .find(|tag| tag.key == key)
            .map(|tag| tag.value.as_ref())
    }
}
