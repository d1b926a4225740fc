//! The server: a request from `ServeHTTP` to its end. Entry spans.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use probe_common::{
    event::{
        EventKind,
        go::net_http::{
            REQUEST_CLIENT_GONE, REQUEST_HEAD_INCOMPLETE, REQUEST_PATH_TRUNCATED, REQUEST_TLS, RequestEnd,
        },
    },
    field::{GoField, Offsets},
    key::GoroutineKey,
    limits::{HEAD_MAX, HOST_MAX, METHOD_MAX, PATH_MAX, PATTERN_MAX},
    loss::LossReason,
    target::TargetInfo,
};

use crate::{
    emit,
    go::{
        self, Hit, Registers,
        request::{
            RequestState, abandon, close, continue_trace, emit_request, join, open, store, take_headers,
        },
    },
    head,
    log::kernel_log,
    memory::{self, GoString, Window},
    scratch::{self, Scratch},
};

/// A server begins to serve a request.
///
/// `func (sh serverHandler) ServeHTTP(rw ResponseWriter, req *Request)`: word 1 the server, 2 and 3 the writer, 4
/// the request. HTTP/1 passes its `*response` as writer.
#[uprobe]
pub(crate) fn go_net_http_serve_http(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    let _counted = scratch::with_or(
        |scratch| begin(registers, tgid, target, scratch),
        || {
            if let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) {
                abandon_earlier(&goroutine);
            }
        },
    );
    0
}

/// The goroutine begins a request that cannot be taken in. By HTTP/2 it is begun already, by its stream.
#[inline(always)]
fn abandon_earlier(goroutine: &GoroutineKey) {
    if open(goroutine).is_some_and(|state| state.kind != EventKind::GoHttp2Request) {
        abandon(goroutine);
    }
}

#[inline(always)]
fn begin(registers: Registers, tgid: u32, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let offsets = &target.offsets;
    let response = registers.word::<3>();
    let request = registers.word::<4>();
    let protocol = memory::read::<u64>(request + offsets.get(GoField::RequestProtoMajor)?);
    if protocol.is_some_and(|major| major != 1) {
        return other_protocol(registers, request, tgid, offsets);
    }
    let Some(goroutine) = go::goroutine_in(tgid, registers.g(), offsets, &mut scratch.window) else {
        return emit::lose(LossReason::ReadFault);
    };
    if protocol.is_none() {
        abandon_earlier(&goroutine);
        return emit::lose(LossReason::ReadFault);
    }
    let state = &mut scratch.request;
    state.begin(
        EventKind::GoNetHttpRequest,
        response,
        request,
        &scratch.window,
        target,
    );
    if read_request(state, request, offsets, &mut scratch.window).is_none() {
        abandon(&goroutine);
        return emit::lose(LossReason::ReadFault);
    }
    if read_head(scratch, response, tgid, target).is_none() {
        scratch.request.flags |= REQUEST_HEAD_INCOMPLETE;
        emit::count(LossReason::HeadIncomplete);
    }
    kernel_log!("request begins on goroutine {} of {}", goroutine.goid, tgid);
    store(&scratch.request, &goroutine)
}

/// Notes the `http.Request` of a request by HTTP/2, whose stream has begun it.
#[inline(always)]
fn other_protocol(registers: Registers, request: u64, tgid: u32, offsets: &Offsets) -> Option<()> {
    let goroutine = go::goroutine(tgid, registers.g(), offsets)?;
    if let Some(state) = open(&goroutine)
        && state.kind == EventKind::GoHttp2Request
    {
        state.request = request;
        return Some(());
    }
    // What a client of HTTP/2 begins its connection with looks like a request, and is none.
    let method: GoString = memory::read(request + offsets.get(GoField::RequestMethod)?)?;
    if method.len == 3 && memory::read::<[u8; 3]>(method.address) == Some(*b"PRI") {
        return None;
    }
    emit::lose(LossReason::ProtocolUnsupported)
}

/// Method, path, host, length, context.
#[inline(always)]
fn read_request(
    state: &mut RequestState,
    request: u64,
    offsets: &Offsets,
    window: &mut Window,
) -> Option<()> {
    let context_at = offsets.get(GoField::RequestCtx)?;
    let window = window.fetch(request, context_at + 8)?;
    let method = window.string(offsets.get(GoField::RequestMethod)?)?;
    state.method_len = memory::read_string::<METHOD_MAX>(method, state.method.as_mut_ptr())?;
    let url = window.word(offsets.get(GoField::RequestUrl)?)?;
    let path: GoString = memory::read(url + offsets.get(GoField::UrlPath)?)?;
    state.path_len = memory::read_string::<PATH_MAX>(path, state.path.as_mut_ptr())?;
    if path.len > PATH_MAX as u64 {
        state.flags |= REQUEST_PATH_TRUNCATED;
    }
    let host = window.string(offsets.get(GoField::RequestHost)?)?;
    state.host_len = memory::read_string::<HOST_MAX>(host, state.host.as_mut_ptr())?;
    state.request_bytes = window.word(offsets.get(GoField::RequestContentLength)?)? as i64;
    state.context = window.interface(context_at)?.data;
    Some(())
}

/// Finds our headers in the connection's read buffer. When `ServeHTTP` begins, the parser has consumed the head
/// and nothing else: what it read lies just before the buffer's read position.
#[inline(always)]
fn read_head(scratch: &mut Scratch, response: u64, tgid: u32, target: &TargetInfo) -> Option<()> {
    let offsets = &target.offsets;
    let conn: u64 = memory::read(response + offsets.get(GoField::ServerResponseConn)?)?;
    let bufr_at = offsets.get(GoField::ConnBufr)?;
    let window = scratch.window.fetch(conn, bufr_at)?;
    let is_encrypted = window.word(offsets.get(GoField::ConnTlsState)?)? != 0;
    let below = offsets.get(GoField::ConnRwc).and_then(|at| window.interface(at));
    let bufr = window.word(bufr_at)?;
    let consumed_at = offsets.get(GoField::BufioReaderR)?;
    let window = scratch.window.fetch(bufr, consumed_at)?;
    let buffer = window.string(offsets.get(GoField::BufioReaderBuf)?)?;
    let consumed = window.word(consumed_at)?;
    if consumed > buffer.len {
        return None;
    }
    let skipped = consumed.saturating_sub(HEAD_MAX as u64);
    let text = scratch.text.as_mut_ptr();
    let len = u32::from(memory::read_bytes::<HEAD_MAX>(
        buffer.address + skipped,
        consumed - skipped,
        text,
    )?);
    head::scan(scratch, len, false);
    let is_whole = scratch.head.request_line_end != 0;
    take_headers(scratch);
    if is_encrypted {
        scratch.request.flags |= REQUEST_TLS;
        if let Some(below) = below {
            let _by_a_stranger = join(below.data, 0, target, scratch);
        }
    }
    continue_trace(scratch, tgid, target);
    if is_whole { Some(()) } else { None }
}

/// The handler has returned, and the server is about to finish the response.
///
/// `func (w *response) finishRequest()`: word 1 the response.
#[uprobe]
pub(crate) fn go_net_http_finish_request(ctx: ProbeContext) -> u32 {
    let _counted = end(&ctx, RequestEnd::Finished);
    0
}

/// The handler takes the connection over: the server will not finish this response.
///
/// `func (w *response) Hijack() (rwc net.Conn, buf *bufio.ReadWriter, err error)`: word 1 the response.
#[uprobe]
pub(crate) fn go_net_http_hijack(ctx: ProbeContext) -> u32 {
    let _counted = end(&ctx, RequestEnd::Hijacked);
    0
}

/// A connection ends. With a request still open on its goroutine, the handler has panicked.
///
/// `func (c *conn) close()`: word 1 the connection. Between requests there is nothing to do.
#[uprobe]
pub(crate) fn go_net_http_conn_close(ctx: ProbeContext) -> u32 {
    let _counted = end(&ctx, RequestEnd::Panicked);
    0
}

#[inline(always)]
fn end(ctx: &ProbeContext, end: RequestEnd) -> Option<()> {
    let Hit {
        registers,
        tgid,
        target,
    } = go::entered(ctx)?;
    let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) else {
        return emit::lose(LossReason::ReadFault);
    };
    // Absent: the request began before the probe, was not HTTP/1, or was counted as lost at its start.
    let state = open(&goroutine)?;
    if state.kind != EventKind::GoNetHttpRequest {
        return None;
    }
    if !matches!(end, RequestEnd::Panicked) && state.response != registers.word::<1>() {
        return None;
    }
    kernel_log!("request ends on goroutine {} of {}", goroutine.goid, tgid);
    let sent = scratch::with(|scratch| send(state, &goroutine, end, &target.offsets, scratch));
    close(state, &goroutine);
    sent
}

#[inline(always)]
fn send(
    state: &RequestState,
    goroutine: &GoroutineKey,
    end: RequestEnd,
    offsets: &Offsets,
    scratch: &mut Scratch,
) -> Option<()> {
    let mut event = state.event(goroutine, end);
    if let Some((status, written)) = read_response(state.response, offsets, &mut scratch.window) {
        event.status = status;
        event.response_bytes = written;
    }
    // After a panic the server cancels the context itself, before it closes the connection.
    if !matches!(end, RequestEnd::Panicked) && client_gone(state.context, offsets).is_some() {
        event.flags |= REQUEST_CLIENT_GONE;
    }
    event.pattern_len = read_pattern(state.request, offsets, scratch.pattern.as_mut_ptr());
    emit_request(state, event, scratch)
}

#[inline(always)]
fn read_response(response: u64, offsets: &Offsets, window: &mut Window) -> Option<(u16, i64)> {
    let status_at = offsets.get(GoField::ServerResponseStatus)?;
    let window = window.fetch(response, status_at)?;
    let written = window.word(offsets.get(GoField::ServerResponseWritten)?)?;
    Some((window.word(status_at)? as u16, written as i64))
}

/// The request's context derives from its connection's, which the server cancels when the client goes away.
#[inline(always)]
fn client_gone(context: u64, offsets: &Offsets) -> Option<()> {
    let connection: u64 = memory::read(context + 8)?;
    let error: u64 = memory::read(connection + offsets.get(GoField::CancelCtxErr)?)?;
    if error == 0 { None } else { Some(()) }
}

/// Reads the request's `Pattern`; its length, 0 where there is none.
#[inline(always)]
pub(crate) fn read_pattern(request: u64, offsets: &Offsets, to: *mut u8) -> u16 {
    let Some(offset) = offsets.get(GoField::RequestPattern) else {
        return 0;
    };
    let Some(pattern) = memory::read::<GoString>(request + offset) else {
        return 0;
    };
    // A longer one would be cut in a place that makes another route of it.
    if pattern.len > PATTERN_MAX as u64 {
        return 0;
    }
    memory::read_string::<PATTERN_MAX>(pattern, to).unwrap_or(0)
}
