//! What is gRPC's own about a span: its tags, and which status is a failure.

use std::borrow::Cow;

use probe_common::event::{
    EventKind,
    go::grpc::{BothWays, CALL_CLIENT_STREAMS, CALL_SERVER_STREAMS, STATUS_READ},
};

use super::{
    Clock, TypeNames,
    context::lossy,
    entry::NANOSECONDS_PER_MILLISECOND,
    go_error::{self, GoError},
    span::Tag,
};
use crate::event::Call;

/// Whether a record is of gRPC.
pub(super) const fn is_rpc(kind: EventKind) -> bool {
    match kind {
        EventKind::GoGrpcRequest | EventKind::GoGrpcCall => true,
        EventKind::ProcessExec
        | EventKind::ProcessExit
        | EventKind::GoNetHttpRequest
        | EventKind::GoNetHttpCall
        | EventKind::GoHttp2Request
        | EventKind::GoHttp2Call => false,
    }
}

/// The type of the errors that a call ends with, and that of an error around one.
const STATUS_ERROR: &str = "*status.Error";
const WRAP_ERROR: &str = "*fmt.wrapError";

/// Whether this is `io.EOF`.
pub(super) fn is_end(error: &GoError) -> bool {
    error.kind == "*errors.errorString" && error.message == "EOF"
}

/// The codes' names, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The code that was read, if one was.
pub(super) fn code(flags: u32, status: u16) -> Option<u16> {
    (flags & STATUS_READ != 0).then_some(status)
}

/// The code of a call that ended with an error of this type. What was read as a code is one only if the error, or the
/// one that it wraps, is of gRPC's own type.
pub(super) fn code_of(call: &Call<'_>, kind: &str, names: &dyn TypeNames) -> Option<u16> {
    let fixed = &call.fixed;
    match kind {
        STATUS_ERROR => code(fixed.flags, fixed.status),
        WRAP_ERROR => {
            let snapshot = call.error.as_deref()?;
            let wrapped = go_error::wrapped_kind(snapshot, fixed.header.tgid, names)?;
            let [_, inner, ..] = &snapshot.values;
            (wrapped == STATUS_ERROR)
                .then(|| u16::try_from(inner.word).ok())
                .flatten()
        }
        _ => None,
    }
}

fn code_name(code: u16) -> Cow<'static, str> {
    CODES
        .get(usize::from(code))
        .map_or_else(|| code.to_string().into(), |name| Cow::Borrowed(*name))
}

/// `url` is the method as it goes over the wire. A server's record does not say whether the method streams.
pub(super) fn tags(path: &[u8], flags: u32, code: Option<u16>, client: bool) -> Vec<Tag> {
    let mut tags = Vec::with_capacity(3);
    let mut tag = |key, value: Cow<'static, str>| tags.push(Tag { key, value });
    tag("url", lossy(path).into_owned().into());
    if client {
        let streams = flags & (CALL_CLIENT_STREAMS | CALL_SERVER_STREAMS) != 0;
        tag("rpc.type", if streams { "Streaming" } else { "Unary" }.into());
    }
    if let Some(code) = code {
        tag("rpc.status_code", code_name(code));
    }
    tags
}

/// How many messages of a stream went each way, and when the first and the last did.
pub(super) fn message_tags(messages: &BothWays, clock: Clock, tags: &mut Vec<Tag>) {
    const SENT: [&str; 3] = [
        "rpc.messages.sent",
        "rpc.messages.sent.first",
        "rpc.messages.sent.last",
    ];
    const RECEIVED: [&str; 3] = [
        "rpc.messages.received",
        "rpc.messages.received.first",
        "rpc.messages.received.last",
    ];
    for (one_way, [count, first, last]) in [(messages.sent, SENT), (messages.received, RECEIVED)] {
        let mut tag = |key, value: u64| {
            tags.push(Tag {
                key,
                value: value.to_string().into(),
            });
        };
        let ms = |at_ns| clock.wall_ns(at_ns) / NANOSECONDS_PER_MILLISECOND;
        tag(count, one_way.count);
        if one_way.count != 0 {
            tag(first, ms(one_way.first_ns));
            tag(last, ms(one_way.last_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_names_and_strange_ones_their_number() {
        assert_eq!(code_name(0), "OK");
        assert_eq!(code_name(16), "UNAUTHENTICATED");
        assert_eq!(code_name(17), "17");
        assert_eq!(code(0, 4), None);
        assert_eq!(code(STATUS_READ, 4), Some(4));
    }
}
