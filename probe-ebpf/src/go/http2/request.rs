//! The server: a request from its stream's headers to its handler's end. Entry spans.
//!
//! The headers are seen on the goroutine that serves the connection, the rest on the stream's own.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use probe_common::{
    event::{
        EventKind,
        go::net_http::{REQUEST_CLIENT_GONE, REQUEST_PATH_TRUNCATED, REQUEST_TLS, RequestEnd},
    },
    field::{GoField, Offsets},
    key::{GoroutineKey, StreamKey},
    limits::{HOST_MAX, METHOD_MAX, PATH_MAX},
    loss::LossReason,
    target::TargetInfo,
};

use super::{Package, Standard, XNet};
use crate::{
    emit,
    go::{
        self, Hit, Registers,
        header_fields::{self, FrameOffsets},
        net_http::read_pattern,
        request::{RequestState, abandon, close, continue_trace, emit_request, join, open, store},
    },
    log::kernel_log,
    memory::{self, GoInterface, GoString},
    scratch::{self, Scratch},
};

/// A stream's headers have come, or its trailers.
///
/// `func (sc *serverConn) processHeaders(f *MetaHeadersFrame) error`: word 1 the connection, 2 the frame.
#[uprobe]
pub(crate) fn go_http2_process_headers(ctx: ProbeContext) -> u32 {
    headers::<Standard>(&ctx);
    0
}

/// The same of `golang.org/x/net`.
#[uprobe]
pub(crate) fn go_x_http2_process_headers(ctx: ProbeContext) -> u32 {
    headers::<XNet>(&ctx);
    0
}

#[inline(always)]
fn headers<P: Package>(ctx: &ProbeContext) {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(ctx)
    else {
        return;
    };
    let (connection, frame) = (registers.word::<1>(), registers.word::<2>());
    let offsets = FrameOffsets {
        fields: target.offsets.get(P::FIELDS),
        stream_id: target.offsets.get(P::FRAME_STREAM_ID),
    };
    header_fields::keep(connection, frame, tgid, &offsets);
}

/// A stream's handler begins, on a goroutine of its own.
///
/// `func (sc *serverConn) runHandler(rw *responseWriter, req *http.Request, handler ...)`: word 1 the connection, 2 the
/// writer, 3 the request; of the standard library's since Go 1.27 a `*ServerRequest`.
#[uprobe]
pub(crate) fn go_http2_run_handler(ctx: ProbeContext) -> u32 {
    run::<Standard>(&ctx);
    0
}

/// The same of `golang.org/x/net`.
#[uprobe]
pub(crate) fn go_x_http2_run_handler(ctx: ProbeContext) -> u32 {
    run::<XNet>(&ctx);
    0
}

#[inline(always)]
fn run<P: Package>(ctx: &ProbeContext) {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(ctx)
    else {
        return;
    };
    let _counted = scratch::with_or(
        |scratch| begin::<P>(registers, tgid, target, scratch),
        || {
            if let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) {
                abandon(&goroutine);
            }
        },
    );
}

#[inline(always)]
fn begin<P: Package>(
    registers: Registers,
    tgid: u32,
    target: &TargetInfo,
    scratch: &mut Scratch,
) -> Option<()> {
    let offsets = &target.offsets;
    let Some(goroutine) = go::goroutine_in(tgid, registers.g(), offsets, &mut scratch.window) else {
        return emit::lose(LossReason::ReadFault);
    };
    let connection = registers.word::<1>();
    let writer = registers.word::<2>();
    let request = registers.word::<3>();
    // Another struct has no pattern: `serverHandler.ServeHTTP` will see the `http.Request`.
    let has_pattern = offsets.get(P::REQUEST_METHOD) == offsets.get(GoField::RequestMethod);
    let state = &mut scratch.request;
    state.begin(
        EventKind::GoHttp2Request,
        writer,
        if has_pattern { request } else { 0 },
        &scratch.window,
        target,
    );
    state.connection = connection;
    let read = read_request::<P>(request, offsets, scratch)
        .and_then(|()| read_stream::<P>(connection, writer, offsets, &mut scratch.request));
    if read.is_none() {
        abandon(&goroutine);
        return emit::lose(LossReason::ReadFault);
    }
    let key = StreamKey {
        connection,
        tgid,
        id: scratch.request.stream,
    };
    header_fields::take(&key, scratch);
    if scratch.request.flags & REQUEST_TLS != 0 {
        let _by_a_stranger = join_stream::<P>(&key, target, scratch);
    }
    continue_trace(scratch, tgid, target);
    kernel_log!(
        "request of stream {} begins on goroutine {} of {}",
        key.id,
        goroutine.goid,
        tgid
    );
    store(&scratch.request, &goroutine)
}

/// Takes over what the client has laid down for the stream.
#[inline(always)]
fn join_stream<P: Package>(stream: &StreamKey, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let conn: GoInterface = memory::read(stream.connection + target.offsets.get(P::SERVER_CONN)?)?;
    join(conn.data, stream.id, target, scratch)
}

/// Method, path, host, length, context.
#[inline(always)]
fn read_request<P: Package>(request: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<()> {
    let state = &mut scratch.request;
    let context_at = offsets.get(P::REQUEST_CONTEXT)?;
    let length_at = offsets.get(P::REQUEST_CONTENT_LENGTH)?;
    let host_at = offsets.get(P::REQUEST_HOST)?;
    let mut last = context_at;
    if length_at > last {
        last = length_at;
    }
    if host_at > last {
        last = host_at;
    }
    let fields = scratch.window.fetch(request, last + 8)?;
    let method = fields.string(offsets.get(P::REQUEST_METHOD)?)?;
    state.method_len = memory::read_string::<METHOD_MAX>(method, state.method.as_mut_ptr())?;
    let url = fields.word(offsets.get(P::REQUEST_URL)?)?;
    let path: GoString = memory::read(url + offsets.get(GoField::UrlPath)?)?;
    state.path_len = memory::read_string::<PATH_MAX>(path, state.path.as_mut_ptr())?;
    if path.len > PATH_MAX as u64 {
        state.flags |= REQUEST_PATH_TRUNCATED;
    }
    let host = fields.string(host_at)?;
    state.host_len = memory::read_string::<HOST_MAX>(host, state.host.as_mut_ptr())?;
    state.request_bytes = fields.word(length_at)? as i64;
    state.context = fields.interface(context_at)?.data;
    Some(())
}

/// The stream's id, and whether its connection is encrypted.
#[inline(always)]
fn read_stream<P: Package>(
    connection: u64,
    writer: u64,
    offsets: &Offsets,
    state: &mut RequestState,
) -> Option<()> {
    let writer_state: u64 = memory::read(writer + offsets.get(P::WRITER_STATE)?)?;
    let stream: u64 = memory::read(writer_state + offsets.get(P::WRITER_STREAM)?)?;
    state.stream = memory::read(stream + offsets.get(P::SERVER_STREAM_ID)?)?;
    let tls: u64 = memory::read(connection + offsets.get(P::SERVER_TLS_STATE)?)?;
    if tls != 0 {
        state.flags |= REQUEST_TLS;
    }
    Some(())
}

/// A stream's handler has returned, panicked or ended its goroutine.
///
/// The function that `runHandler` defers, before it does anything: what was written is not sent yet, and the writer is
/// not given back.
#[uprobe]
pub(crate) fn go_http2_handler_end(ctx: ProbeContext) -> u32 {
    let _counted = end::<Standard>(&ctx);
    0
}

/// The same of `golang.org/x/net`.
#[uprobe]
pub(crate) fn go_x_http2_handler_end(ctx: ProbeContext) -> u32 {
    let _counted = end::<XNet>(&ctx);
    0
}

#[inline(always)]
fn end<P: Package>(ctx: &ProbeContext) -> Option<()> {
    let Hit {
        registers,
        tgid,
        target,
    } = go::entered(ctx)?;
    let offsets = &target.offsets;
    let Some(goroutine) = go::goroutine(tgid, registers.g(), offsets) else {
        return emit::lose(LossReason::ReadFault);
    };
    // Absent: the request began before the probe, was counted as lost at its start, or has become a call of gRPC.
    let state = open(&goroutine)?;
    if state.kind != EventKind::GoHttp2Request {
        return None;
    }
    // What defers is run by a panic, or by the end of the goroutine, as long as that is noted here.
    let panicking = memory::read::<u64>(registers.g() + offsets.get(GoField::GPanic)?)? != 0;
    let end = if panicking {
        RequestEnd::Panicked
    } else {
        RequestEnd::Finished
    };
    kernel_log!("request ends on goroutine {} of {}", goroutine.goid, tgid);
    let sent = scratch::with(|scratch| send::<P>(state, end, &goroutine, offsets, scratch));
    close(state, &goroutine);
    sent
}

#[inline(always)]
fn send<P: Package>(
    state: &RequestState,
    end: RequestEnd,
    goroutine: &GoroutineKey,
    offsets: &Offsets,
    scratch: &mut Scratch,
) -> Option<()> {
    let mut event = state.event(goroutine, end);
    if let Some((status, written)) = read_response::<P>(state.response, offsets) {
        event.status = status;
        event.response_bytes = written;
    }
    if client_gone(state, offsets).is_some() {
        event.flags |= REQUEST_CLIENT_GONE;
    }
    event.pattern_len = read_pattern(state.request, offsets, scratch.pattern.as_mut_ptr());
    emit_request(state, event, scratch)
}

#[inline(always)]
fn read_response<P: Package>(writer: u64, offsets: &Offsets) -> Option<(u16, i64)> {
    let state: u64 = memory::read(writer + offsets.get(P::WRITER_STATE)?)?;
    let status: u64 = memory::read(state + offsets.get(P::WRITER_STATUS)?)?;
    let written: i64 = memory::read(state + offsets.get(P::WRITER_BYTES)?)?;
    Some((status as u16, written))
}

/// The stream's context is cancelled when the stream ends, which before its handler's end is the client's doing: it has
/// reset the stream, or is gone. But the answer to a `HEAD` ends the stream as soon as its headers are sent.
#[inline(always)]
fn client_gone(state: &RequestState, offsets: &Offsets) -> Option<()> {
    if state.method_len == 4 && state.method[..4] == *b"HEAD" {
        return None;
    }
    let error: u64 = memory::read(state.context + offsets.get(GoField::CancelCtxErr)?)?;
    if error == 0 { None } else { Some(()) }
}
