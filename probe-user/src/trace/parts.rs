//! What segments are made of, put together.

use std::sync::Arc;

use probe_common::hex as digits;

use super::{
    SegmentId,
    context::lossy,
    held::HeldRequest,
    segment::{Identity, Segment},
    span::{self, Reference, ReferenceKind, Span, SpanKind},
};

pub(super) fn segment(
    segment_id: String,
    identity: Arc<Identity>,
    request: HeldRequest,
    calls: Vec<Span>,
) -> Segment {
    let mut spans = calls;
    for call in &mut spans {
        call.skip_analysis = request.span.skip_analysis;
    }
    spans.insert(0, request.span);
    spans.sort_by_key(|span| span.id);
    Segment {
        trace_id: request.trace_id,
        segment_id,
        identity,
        spans,
    }
}

pub(super) fn as_root(span: Span) -> Span {
    Span {
        id: 0,
        parent_id: -1,
        ..span
    }
}

/// A reference to the first span of another segment of the same process.
pub(super) fn within_process(trace_id: &str, parent_segment_id: String, identity: &Identity) -> Reference {
    Reference {
        kind: ReferenceKind::CrossThread,
        trace_id: trace_id.to_owned(),
        parent_segment_id,
        parent_span_id: 0,
        parent_service: identity.service.clone(),
        parent_instance: identity.instance.clone(),
        parent_endpoint: String::new(),
        network_address: String::new(),
    }
}

/// Stands for a request whose end was not seen: a segment needs a first span, and its calls their parent.
pub(super) fn stand_in(calls: &[Span]) -> Span {
    Span {
        id: 0,
        parent_id: -1,
        start_ns: calls.iter().map(|call| call.start_ns).min().unwrap_or_default(),
        end_ns: calls.iter().map(|call| call.end_ns).max().unwrap_or_default(),
        kind: SpanKind::Local,
        component: span::Component::GoHttpServer,
        operation: "request without an end".into(),
        peer: String::new(),
        is_error: false,
        references: Vec::new(),
        tags: Vec::new(),
        logs: Vec::new(),
        skip_analysis: false,
    }
}

/// The id under which a request is reported whose segment's id is taken.
pub(super) fn request_segment_id(id: &SegmentId) -> String {
    format!("{}.0", hex(id))
}

/// An id as lower-case digits.
pub(super) fn hex(id: &[u8; 16]) -> String {
    let mut digits = [0; 32];
    digits::encode(id, &mut digits, 0);
    lossy(&digits).into_owned()
}

/// The `url` tag: without the query, which may hold secrets.
pub(super) fn url(scheme: &[u8], host: &[u8], path: &[u8]) -> String {
    let mut url = String::with_capacity(scheme.len() + host.len() + path.len() + 3);
    for part in [scheme, b"://", host, path] {
        url.push_str(&lossy(part));
    }
    url
}
