//! A call sent → an Exit span.

use std::{borrow::Cow, sync::Arc};

use probe_common::{
    event::go::net_http::{CALL_TRUNCATED, ParentFound},
    propagation::Outcome,
};

use super::{
    Clock, TypeNames,
    context::lossy,
    entry::{method, status_code},
    go_error,
    parts::url,
    rpc,
    span::{Component, Span, SpanKind, SpanLog, Tag},
};
use crate::event::Call;

/// The Exit span of a call, under the given name. Its ids are those of a call with a parent.
pub(super) fn exit(
    call: &Call<'_>,
    operation: Arc<str>,
    clock: Clock,
    names: &dyn TypeNames,
    debug_tags: bool,
) -> Span {
    let fixed = &call.fixed;
    let start_ns = clock.wall_ns(fixed.start_ns);
    let end_ns = clock.wall_ns(fixed.end_ns).max(start_ns);
    let error = call
        .error
        .as_deref()
        .map(|error| go_error::describe(error, fixed.header.tgid, names));
    let is_rpc = rpc::is_rpc(fixed.header.kind);
    // A stream that was read to its end is finished with `io.EOF`.
    let error = error.filter(|error| !(is_rpc && rpc::is_end(error)));
    let (mut tags, failed) = if is_rpc {
        let code = error
            .as_ref()
            .map_or(Some(0), |error| rpc::code_of(call, &error.kind, names));
        let mut tags = rpc::tags(call.path, fixed.flags, code, true);
        if let Some(messages) = &call.messages {
            rpc::message_tags(messages, clock, &mut tags);
        }
        (tags, false)
    } else {
        (http_tags(call), fixed.status >= 400)
    };
    let mut tag = |key, value: Cow<'static, str>| tags.push(Tag { key, value });
    if debug_tags {
        tag("skyprobe.goroutine", fixed.goid.to_string().into());
        tag("skyprobe.parent", parent(fixed.parent).into());
        tag("skyprobe.propagation", outcome(fixed.propagation).into());
        if fixed.flags & CALL_TRUNCATED != 0 {
            tag("skyprobe.path", "truncated".into());
        }
    }

    let failed = failed || error.is_some();
    let mut logs = Vec::new();
    if let Some(error) = error {
        let data = vec![
            ("event", "error".to_owned()),
            ("error.kind", error.kind),
            ("message", error.message),
        ];
        logs.push(SpanLog {
            time_ns: end_ns,
            data,
        });
    }

    Span {
        id: i32::try_from(fixed.span_id).unwrap_or(i32::MAX),
        parent_id: 0,
        start_ns,
        end_ns,
        kind: SpanKind::Exit,
        component: if is_rpc {
            Component::Grpc
        } else {
            Component::GoHttpClient
        },
        operation,
        peer: lossy(call.peer).into_owned(),
        is_error: failed,
        references: Vec::new(),
        tags,
        logs,
        skip_analysis: false,
    }
}

fn http_tags(call: &Call<'_>) -> Vec<Tag> {
    let fixed = &call.fixed;
    let mut tags = Vec::with_capacity(4);
    let mut tag = |key, value: Cow<'static, str>| tags.push(Tag { key, value });
    tag("http.method", method(call.method));
    let scheme: &[u8] = if call.scheme.is_empty() {
        b"http"
    } else {
        call.scheme
    };
    tag("url", url(scheme, call.peer, call.path).into());
    if fixed.status != 0 && call.error.is_none() {
        tag("http.status_code", status_code(fixed.status));
        if fixed.response_bytes > 0 {
            tag("http.response.bytes", fixed.response_bytes.to_string().into());
        }
    }
    tags
}

/// Whether the call's header was seen by its server.
pub(super) fn went_out(propagation: u32) -> bool {
    matches!(
        Outcome::from_number(propagation),
        Some(Outcome::Inserted | Outcome::Replaced | Outcome::Joined)
    )
}

const fn parent(found: ParentFound) -> &'static str {
    match found {
        ParentFound::None => "none",
        ParentFound::Context => "context",
        ParentFound::Goroutine => "goroutine",
        ParentFound::Ancestry => "ancestry",
    }
}

const fn outcome(number: u32) -> &'static str {
    match Outcome::from_number(number) {
        Some(Outcome::Off) => "off",
        Some(Outcome::NotSeen) => "not_seen",
        Some(Outcome::Inserted) => "inserted",
        Some(Outcome::Replaced) => "replaced",
        Some(Outcome::Present) => "present",
        Some(Outcome::Encrypted) => "encrypted",
        Some(Outcome::UnknownConnection) => "unknown_connection",
        Some(Outcome::NoRequestLine) => "no_request_line",
        Some(Outcome::Refused) => "refused",
        Some(Outcome::TooLong) => "too_long",
        Some(Outcome::NoConnection) => "no_connection",
        Some(Outcome::Joined) => "joined",
        Some(Outcome::NotSampled) => "not_sampled",
        None => "unknown",
    }
}
