//! A request served → an Entry span.

use std::{borrow::Cow, sync::Arc};

use probe_common::event::{
    EventKind,
    go::net_http::{
        REQUEST_CLIENT_GONE, REQUEST_HEAD_INCOMPLETE, REQUEST_PATH_TRUNCATED, REQUEST_SW8_CONTINUED,
        REQUEST_SW8_MALFORMED, REQUEST_TLS, RequestEnd,
    },
};

use super::{
    Clock,
    context::{Sw8, Sw8X, lossy},
    names::METHODS,
    parts::{hex, url},
    rpc,
    span::{Component, Reference, ReferenceKind, Span, SpanKind, SpanLog, Tag},
};
use crate::event::Request;

pub(super) const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// What a request's record gives for its segment.
pub(super) struct Entry {
    pub trace_id: String,
    pub span: Span,
    /// The kernel side continued an `sw8` that says nothing here.
    pub sw8_unreadable: bool,
}

/// The Entry span of a request, under the given name.
pub(super) fn entry(request: &Request<'_>, operation: Arc<str>, clock: Clock, debug_tags: bool) -> Entry {
    let fixed = &request.fixed;
    let has = |flag: u32| fixed.flags & flag != 0;
    let start_ns = clock.wall_ns(fixed.start_ns);
    let end_ns = clock.wall_ns(fixed.end_ns).max(start_ns);
    let sw8 = has(REQUEST_SW8_CONTINUED)
        .then(|| Sw8::decode(request.sw8))
        .flatten();
    let sw8_unreadable = has(REQUEST_SW8_CONTINUED) && sw8.is_none();
    let sw8_x = Sw8X::decode(request.sw8_x);
    let is_rpc = rpc::is_rpc(fixed.header.kind);
    let (mut tags, failed) = if is_rpc {
        let code = rpc::code(fixed.flags, fixed.status);
        let mut tags = rpc::tags(request.path, fixed.flags, code, false);
        if let Some(messages) = &request.messages {
            rpc::message_tags(messages, clock, &mut tags);
        }
        (tags, code.is_some_and(probe_common::sampling::is_server_error))
    } else {
        let status = status(fixed.end, fixed.status);
        (
            http_tags(request, status),
            status.is_some_and(|status| status >= 400),
        )
    };
    let mut tag = |key, value: Cow<'static, str>| tags.push(Tag { key, value });
    if !request.traceparent.is_empty() {
        tag("w3c.traceparent", lossy(request.traceparent).into_owned().into());
    }
    if let Some(sent_at_ms) = sw8_x.sent_at_ms {
        // Two machines' clocks: what seems to have arrived before it was sent took no time.
        let latency_ms = (start_ns / NANOSECONDS_PER_MILLISECOND).saturating_sub(sent_at_ms);
        tag("transmission.latency", latency_ms.to_string().into());
    }
    if debug_tags {
        tag("skyprobe.goroutine", fixed.goid.to_string().into());
        if has(REQUEST_PATH_TRUNCATED) {
            tag("skyprobe.path", "truncated".into());
        }
        if has(REQUEST_HEAD_INCOMPLETE) {
            tag("skyprobe.head", "incomplete".into());
        }
        if has(REQUEST_SW8_MALFORMED) {
            tag("skyprobe.sw8", "malformed".into());
        }
    }

    let mut logs = Vec::new();
    let mut error = |kind: &str, message: &str| {
        let text = |text: &str| text.to_owned();
        let data = vec![
            ("event", text("error")),
            ("error.kind", text(kind)),
            ("message", text(message)),
        ];
        logs.push(SpanLog {
            time_ns: end_ns,
            data,
        });
    };
    match fixed.end {
        RequestEnd::Panicked => {
            let lost = if fixed.header.kind == EventKind::GoHttp2Request {
                "the handler panicked or ended its goroutine, and the stream was reset"
            } else {
                "the handler panicked or ended its goroutine, and the connection was closed"
            };
            error("panic", lost);
        }
        RequestEnd::Missed => {
            error(
                "end_missed",
                "the next request began on this connection before the end of this one was seen",
            );
        }
        RequestEnd::Finished | RequestEnd::Hijacked => {}
    }
    if has(REQUEST_CLIENT_GONE) {
        error(
            "client_gone",
            "the client was gone before the response was finished",
        );
    }

    let trace_id = match &sw8 {
        Some(sw8) => sw8.trace_id.clone(),
        // All zero only if the header that was continued cannot be read here: then the segment names the trace.
        None if fixed.trace_id == [0; 16] => hex(&fixed.segment_id),
        None => hex(&fixed.trace_id),
    };
    let span = Span {
        id: 0,
        parent_id: -1,
        start_ns,
        end_ns,
        kind: SpanKind::Entry,
        component: if is_rpc {
            Component::Grpc
        } else {
            Component::GoHttpServer
        },
        operation,
        peer: String::new(),
        is_error: failed || fixed.end == RequestEnd::Panicked,
        references: sw8.map(reference).into_iter().collect(),
        tags,
        logs,
        skip_analysis: sw8_x.skip_analysis,
    };
    Entry {
        trace_id,
        span,
        sw8_unreadable,
    }
}

fn http_tags(request: &Request<'_>, status: Option<u16>) -> Vec<Tag> {
    let fixed = &request.fixed;
    let has = |flag: u32| fixed.flags & flag != 0;
    let mut tags = Vec::with_capacity(6);
    let mut tag = |key, value: Cow<'static, str>| tags.push(Tag { key, value });
    tag("http.method", method(request.method));
    let scheme: &[u8] = if has(REQUEST_TLS) { b"https" } else { b"http" };
    tag("url", url(scheme, request.host, request.path).into());
    if let Some(status) = status {
        tag("http.status_code", status_code(status));
    }
    if fixed.request_bytes > 0 {
        tag("http.request.bytes", fixed.request_bytes.to_string().into());
    }
    if fixed.response_bytes > 0 {
        tag("http.response.bytes", fixed.response_bytes.to_string().into());
    }
    if fixed.end == RequestEnd::Hijacked {
        tag("http.hijacked", "true".into());
    }
    if has(REQUEST_CLIENT_GONE) {
        tag("http.client_gone", "true".into());
    }
    tags
}

fn reference(sw8: Sw8) -> Reference {
    Reference {
        kind: ReferenceKind::CrossProcess,
        trace_id: sw8.trace_id,
        parent_segment_id: sw8.parent_segment_id,
        parent_span_id: sw8.parent_span_id,
        parent_service: sw8.parent_service,
        parent_instance: sw8.parent_instance,
        parent_endpoint: sw8.parent_endpoint,
        network_address: sw8.network_address,
    }
}

/// The status that the client got, as far as it is known.
fn status(end: RequestEnd, status: u16) -> Option<u16> {
    match end {
        // A handler that sets none gets 200, but only after the probe has looked.
        RequestEnd::Finished => Some(if status == 0 { 200 } else { status }),
        RequestEnd::Panicked | RequestEnd::Missed => (status != 0).then_some(status),
        RequestEnd::Hijacked => None,
    }
}

/// A method that is not named is `GET`, as in Go.
pub(super) fn method(method: &[u8]) -> Cow<'static, str> {
    if method.is_empty() {
        return "GET".into();
    }
    let known = METHODS.into_iter().find(|known| known.as_bytes() == method);
    known.map_or_else(|| lossy(method).into_owned().into(), Cow::Borrowed)
}

/// The digits of a status; those that most answers have are not made anew.
pub(super) fn status_code(status: u16) -> Cow<'static, str> {
    match status {
        200 => "200".into(),
        201 => "201".into(),
        204 => "204".into(),
        301 => "301".into(),
        302 => "302".into(),
        304 => "304".into(),
        400 => "400".into(),
        401 => "401".into(),
        403 => "403".into(),
        404 => "404".into(),
        429 => "429".into(),
        500 => "500".into(),
        502 => "502".into(),
        503 => "503".into(),
        504 => "504".into(),
        _ => status.to_string().into(),
    }
}
