//! The server: from a stream's headers to its status. Entry spans.
//!
//! The headers are seen on the goroutine that reads the connection, the rest on the one that serves the stream.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use probe_common::{
    event::{
        EventKind,
        go::{
            grpc::{MESSAGES_COUNTED, STATUS_READ},
            net_http::{REQUEST_PATH_TRUNCATED, RequestEnd},
        },
    },
    field::{GoField, Offsets},
    key::{GoroutineKey, PointerKey, StreamKey},
    limits::{OPEN_REQUESTS_MAX, PATH_MAX, REQUEST_STATE_BYTES},
    loss::LossReason,
    target::{TARGET_COUNTS_SERVED, TargetInfo},
};

use super::{key, messages};
use crate::{
    emit,
    go::{
        self, Hit, Registers, connection,
        header_fields::{self, FrameOffsets},
        request::{abandon, certain, close, continue_trace, emit_request, join, open, store},
    },
    log::kernel_log,
    memory::{self, GoInterface},
    scratch::{self, Scratch},
};

/// A stream's headers have come, from grpc-go 1.60 on.
///
/// `func (t *http2Server) operateHeaders(ctx context.Context, frame *http2.MetaHeadersFrame, ...)`: word 1 the
/// transport, 4 the frame.
#[uprobe]
pub(crate) fn go_grpc_operate_headers(ctx: ProbeContext) -> u32 {
    headers(&ctx, go::registers(&ctx).word::<4>());
    0
}

/// The same before 1.60: word 2 the frame.
#[uprobe]
pub(crate) fn go_grpc_operate_headers_without_context(ctx: ProbeContext) -> u32 {
    headers(&ctx, go::registers(&ctx).word::<2>());
    0
}

#[inline(always)]
fn headers(ctx: &ProbeContext, frame: u64) {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(ctx)
    else {
        return;
    };
    let offsets = FrameOffsets {
        fields: target.offsets.get(GoField::MetaHeadersFrameFields),
        stream_id: target.offsets.get(GoField::FrameHeaderStreamId),
    };
    header_fields::keep(registers.word::<1>(), frame, tgid, &offsets);
}

/// Address of a `serverHandlerTransport` → the goroutine of the request that it stands for. What is never served ages
/// out.
#[map]
static GRPC_HANDLED: LruHashMap<PointerKey, u64> = LruHashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// A request of `net/http` turns out to be a call of gRPC.
///
/// `func (ht *serverHandlerTransport) HandleStreams(...)`: word 1 the transport. On the goroutine of the request; the
/// call is served on another one.
#[uprobe]
pub(crate) fn go_grpc_handler_streams(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    let transport = key(registers.word::<1>(), tgid);
    let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) else {
        emit::count(LossReason::ReadFault);
        // An earlier one at this address may have left its own.
        let _mostly_none = GRPC_HANDLED.remove(&transport);
        return 0;
    };
    let _ages_out = GRPC_HANDLED.insert(&transport, &goroutine.goid, 0);
    0
}

/// Makes the request of `net/http` that `transport` stands for the call of gRPC that begins: there is one Entry span, of
/// the call, with the request's beginning and headers and the calls that have been made for it. Nothing if there is none.
#[inline(always)]
fn take_over(transport: u64, tgid: u32, stream: u64, scratch: &mut Scratch) -> Option<()> {
    let transport = key(transport, tgid);
    // SAFETY: a plain number.
    let goid = *unsafe { GRPC_HANDLED.get(&transport) }?;
    let _served_once = GRPC_HANDLED.remove(&transport);
    let goroutine = GoroutineKey { goid, tgid, _pad: 0 };
    let request = certain(&goroutine)?;
    let to = (&raw mut scratch.request).cast::<u8>();
    memory::copy::<REQUEST_STATE_BYTES>((&raw const *request).cast(), REQUEST_STATE_BYTES as u32, to);
    close(request, &goroutine);
    let state = &mut scratch.request;
    state.kind = EventKind::GoGrpcRequest;
    state.response = stream;
    state.request = 0;
    state.request_bytes = -1;
    state.method_len = 0;
    state.host_len = 0;
    Some(())
}

/// A server begins to serve a stream.
///
/// `func (s *Server) handleStream(t transport.ServerTransport, stream *transport.Stream, ...)`: word 2 and 3 the
/// transport, 4 the stream.
#[uprobe]
pub(crate) fn go_grpc_handle_stream(ctx: ProbeContext) -> u32 {
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
                abandon(&goroutine);
            }
        },
    );
    0
}

#[inline(always)]
fn begin(registers: Registers, tgid: u32, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let offsets = &target.offsets;
    let Some(goroutine) = go::goroutine_in(tgid, registers.g(), offsets, &mut scratch.window) else {
        return emit::lose(LossReason::ReadFault);
    };
    let stream = registers.word::<4>();
    let transport = registers.word::<3>();
    let is_new = take_over(transport, tgid, stream, scratch).is_none();
    if is_new {
        let state = &mut scratch.request;
        state.begin(EventKind::GoGrpcRequest, stream, 0, &scratch.window, target);
    }
    let Some(id) = read_stream(stream, offsets, scratch) else {
        abandon(&goroutine);
        return emit::lose(LossReason::ReadFault);
    };
    if is_new {
        let key = StreamKey {
            connection: transport,
            tgid,
            id,
        };
        header_fields::take(&key, scratch);
        let _by_a_stranger = join_stream(&key, target, scratch);
        continue_trace(scratch, tgid, target);
    }
    kernel_log!("stream {} begins on goroutine {} of {}", id, goroutine.goid, tgid);
    store(&scratch.request, &goroutine)
}

/// Takes over what the client has laid down for the stream, if the connection is encrypted.
#[inline(always)]
fn join_stream(stream: &StreamKey, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let conn_at = target.offsets.get(GoField::GrpcHttp2ServerConn)?;
    let conn: GoInterface = memory::read(stream.connection + conn_at)?;
    if connection::is_plain(conn.data, &target.offsets, &mut scratch.window) {
        return None;
    }
    join(conn.data, stream.id, target, scratch)
}

/// The offset of `ServerStream.st` while the common stream was embedded by pointer.
const ST_BEHIND_POINTER: u64 = 8;

/// Method and context; the stream's id.
#[inline(always)]
fn read_stream(stream: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<u32> {
    let common = if offsets.get(GoField::GrpcServerStreamSt) == Some(ST_BEHIND_POINTER) {
        memory::read(stream)?
    } else {
        stream
    };
    let id_at = offsets.get(GoField::GrpcStreamId)?;
    let method_at = offsets.get(GoField::GrpcStreamMethod)?;
    let context_at = offsets.get(GoField::GrpcStreamCtx)?;
    let mut last = if method_at > context_at {
        method_at
    } else {
        context_at
    } + 8;
    if id_at > last {
        last = id_at;
    }
    let fields = scratch.window.fetch(common, last)?;
    let id = fields.word(id_at)? as u32;
    let context = fields.interface(context_at)?;
    let method = fields.string(method_at)?;
    let state = &mut scratch.request;
    state.context = context.data;
    state.path_len = memory::read_string::<PATH_MAX>(method, state.path.as_mut_ptr())?;
    if method.len > PATH_MAX as u64 {
        state.flags |= REQUEST_PATH_TRUNCATED;
    }
    Some(id)
}

/// A server ends a stream with a status.
///
/// `func (t *http2Server) WriteStatus(s *Stream, st *status.Status) error`, `writeStatus` since 1.69: word 2 the
/// stream, 3 the status.
#[uprobe]
pub(crate) fn go_grpc_write_status(ctx: ProbeContext) -> u32 {
    let _counted = end(&ctx);
    0
}

#[inline(always)]
fn end(ctx: &ProbeContext) -> Option<()> {
    let Hit {
        registers,
        tgid,
        target,
    } = go::entered(ctx)?;
    let stream = key(registers.word::<2>(), tgid);
    let ended = end_stream(registers, &stream, target);
    // Also of a stream that has no request, or no more: there may be another at its address soon.
    messages::forget(&stream);
    ended
}

#[inline(always)]
fn end_stream(registers: Registers, stream: &PointerKey, target: &TargetInfo) -> Option<()> {
    let Some(goroutine) = go::goroutine(stream.tgid, registers.g(), &target.offsets) else {
        return emit::lose(LossReason::ReadFault);
    };
    // Absent: the stream began before the probe, or was counted as lost at its start.
    let state = open(&goroutine)?;
    if state.kind != EventKind::GoGrpcRequest || state.response != stream.pointer {
        return None;
    }
    let mut event = state.event(&goroutine, RequestEnd::Finished);
    event.response_bytes = -1;
    if let Some(code) = status_code(registers.word::<3>(), &target.offsets) {
        event.status = code;
        event.flags |= STATUS_READ;
    }
    let sent = scratch::with(|scratch| {
        if target.flags & TARGET_COUNTS_SERVED != 0 && messages::take(stream, scratch) {
            event.flags |= MESSAGES_COUNTED;
        }
        emit_request(state, event, scratch)
    });
    close(state, &goroutine);
    sent
}

/// The code of a `*status.Status`; without a message within it, OK.
#[inline(always)]
pub(crate) fn status_code(status: u64, offsets: &Offsets) -> Option<u16> {
    if status == 0 {
        return Some(0);
    }
    let message: u64 = memory::read(status + offsets.get(GoField::GrpcStatusS)?)?;
    if message == 0 {
        return Some(0);
    }
    let code: u32 = memory::read(message + offsets.get(GoField::GrpcStatusCode)?)?;
    Some(code as u16)
}
