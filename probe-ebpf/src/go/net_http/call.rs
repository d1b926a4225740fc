//! The client: a call from `Transport.roundTrip` to its return. Exit spans, and the header that goes with them.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use probe_common::{
    event::{
        EventKind,
        go::net_http::{CALL_FAILED, CALL_KEEP_PATH, CALL_TRUNCATED, ErrorSnapshot, ErrorValue},
    },
    field::{GoField, Offsets},
    key::{GoroutineKey, HopKey},
    limits::{HOST_MAX, METHOD_MAX, PATH_MAX, PEER_MAX},
    loss::LossReason,
    peer,
    propagation::Outcome,
    target::{TARGET_KEEP_PATHS, TargetInfo},
};

use crate::{
    emit,
    go::{
        self, Hit, Registers,
        call::{
            CallState, GO_CALLS, SCHEME_MAX, abandon, certain, emit_call, find_parent, outcome, snapshot,
            snapshot_value,
        },
        connection::socket,
    },
    log::kernel_log,
    maps::{self, PREPARED},
    memory::{self, GoInterface, GoString, Window},
    propagation::{header, hop},
    scratch::{self, Scratch},
};

/// A client begins a call.
///
/// `func (t *Transport) roundTrip(req *Request) (*Response, error)`: word 1 the transport, 2 the request.
#[uprobe]
pub(crate) fn go_net_http_round_trip(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) else {
        emit::count(LossReason::ReadFault);
        return 0;
    };
    let kind = EventKind::GoNetHttpCall;
    take_in(kind, registers, &goroutine, target);
    0
}

/// Begins a call of which word 2 is the `http.Request`. One that cannot be taken in ends what the goroutine has waited for
/// all the same.
#[inline(always)]
pub(crate) fn take_in(kind: EventKind, registers: Registers, goroutine: &GoroutineKey, target: &TargetInfo) {
    let begun = scratch::with(|scratch| begin(kind, registers, goroutine, target, scratch));
    if begun.is_none() {
        abandon(goroutine);
    }
}

#[inline(always)]
fn begin(
    kind: EventKind,
    registers: Registers,
    goroutine: &GoroutineKey,
    target: &TargetInfo,
    scratch: &mut Scratch,
) -> Option<()> {
    let offsets = &target.offsets;
    let state = &mut scratch.call;
    state.begin(kind, target);
    state.flags = if target.flags & TARGET_KEEP_PATHS != 0 {
        CALL_KEEP_PATH
    } else {
        0
    };
    let Some(context) = read_request(state, registers.word::<2>(), offsets, &mut scratch.window) else {
        return emit::lose(LossReason::ReadFault);
    };
    find_parent(
        state,
        goroutine,
        registers.g(),
        context,
        target,
        &mut scratch.sampling_path,
    );
    kernel_log!(
        "call begins on goroutine {} of {}, parent found by way {}",
        goroutine.goid,
        goroutine.tgid,
        state.parent as u32
    );
    if GO_CALLS.insert(goroutine, &*state, 0).is_err() {
        return emit::lose(LossReason::CallsFull);
    }
    Some(())
}

/// Method, peer, path; the address of the context.
#[inline(always)]
fn read_request(state: &mut CallState, request: u64, offsets: &Offsets, window: &mut Window) -> Option<u64> {
    let context_at = offsets.get(GoField::RequestCtx)?;
    let fields = window.fetch(request, context_at + 8)?;
    let method = fields.string(offsets.get(GoField::RequestMethod)?)?;
    state.method_len = memory::read_string::<METHOD_MAX>(method, state.method.as_mut_ptr())?;
    let context = fields.interface(context_at)?;
    let url = fields.word(offsets.get(GoField::RequestUrl)?)?;
    let path_at = offsets.get(GoField::UrlPath)?;
    let fields = window.fetch(url, path_at + 8)?;
    let scheme = fields.string(offsets.get(GoField::UrlScheme)?)?;
    state.scheme_len = memory::read_string::<SCHEME_MAX>(scheme, state.scheme.as_mut_ptr())?;
    let host = fields.string(offsets.get(GoField::UrlHost)?)?;
    state.peer_len = memory::read_string::<HOST_MAX>(host, state.peer.as_mut_ptr())?;
    let path = fields.string(path_at)?;
    state.path_len = memory::read_string::<PATH_MAX>(path, state.path.as_mut_ptr())?;
    if path.len > PATH_MAX as u64 || host.len > HOST_MAX as u64 {
        state.flags |= CALL_TRUNCATED;
    }
    add_default_port(state);
    Some(context.data)
}

/// A peer is an address and a port, also where the URL leaves the scheme's own port out.
#[inline(always)]
fn add_default_port(state: &mut CallState) {
    if state.peer_len == 0 || peer::has_port(&state.peer, u32::from(state.peer_len)) {
        return;
    }
    let at = state.peer_len as usize & (PEER_MAX - 1);
    let port: [u8; 4] = if state.scheme_len == 5 {
        *b":443"
    } else {
        *b":80\0"
    };
    let mut index = 0;
    while index < 4 {
        state.peer[(at + index) & (PEER_MAX - 1)] = port[index];
        index += 1;
    }
    state.peer_len += if state.scheme_len == 5 { 4 } else { 3 };
}

/// The transport has a connection for the call and is about to have its request written.
///
/// `func (pc *persistConn) roundTrip(req *transportRequest) (resp *Response, err error)`: word 1 the connection.
/// The goroutine that writes is another one, and is told only after this.
#[uprobe]
pub(crate) fn go_net_http_persist_conn_round_trip(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    if !target.propagates() {
        return 0;
    }
    let _noted = scratch::with(|scratch| prepare(registers, tgid, target, scratch));
    0
}

#[inline(always)]
fn prepare(registers: Registers, tgid: u32, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let offsets = &target.offsets;
    let goroutine = go::goroutine(tgid, registers.g(), offsets)?;
    let state = certain(&goroutine)?;
    if !state.propagates(target) {
        return None;
    }
    let Some((conn, is_encrypted)) = read_connection(registers.word::<1>(), offsets, &mut scratch.window)
    else {
        state.outcome = Outcome::UnknownConnection as u32;
        return emit::lose(LossReason::PropagationUnknownConnection);
    };
    if is_encrypted {
        let Some(hop) = hop::name(conn, 0, target, true, scratch) else {
            state.outcome = Outcome::Encrypted as u32;
            return emit::lose(LossReason::PropagationEncrypted);
        };
        return hop::offer(state, hop, target, tgid, scratch);
    }
    state.hop = HopKey::NONE;
    let Some(socket) = socket(conn, tgid, offsets, &mut scratch.window) else {
        state.outcome = Outcome::UnknownConnection as u32;
        return emit::lose(LossReason::PropagationUnknownConnection);
    };
    if let Err(unwritten) = header::write::<false>(state, target, tgid, scratch) {
        state.outcome = unwritten.outcome() as u32;
        return emit::lose(unwritten.reason());
    }
    state.socket = socket;
    state.stream = 0;
    state.outcome = Outcome::NotSeen as u32;
    let _ages_out = maps::offer(&PREPARED, &socket, state.owner(), &mut scratch.prepared);
    Some(())
}

/// The `net.Conn` of a `persistConn`, and whether it is encrypted.
#[inline(always)]
fn read_connection(connection: u64, offsets: &Offsets, window: &mut Window) -> Option<(u64, bool)> {
    let tls_at = offsets.get(GoField::PersistConnTlsState)?;
    let fields = window.fetch(connection, tls_at)?;
    let conn = fields.interface(offsets.get(GoField::PersistConnConn)?)?;
    Some((conn.data, fields.word(tls_at)? != 0))
}

/// A call has succeeded.
///
/// At the branch of `func (t *Transport) roundTrip(req *Request) (*Response, error)` on the error that the connection's
/// own `roundTrip` has returned: word 1 the response, 2 the error's type. What fails may be tried again on another
/// connection, and is seen when it is returned.
#[uprobe]
pub(crate) fn go_net_http_round_trip_success(ctx: ProbeContext) -> u32 {
    if go::registers(&ctx).word::<2>() == 0 {
        end(&ctx, EventKind::GoNetHttpCall);
    }
    0
}

/// Another protocol's round tripper has answered: HTTP/2's, on a connection that was open.
///
/// At the branch of `func (t *Transport) roundTrip(req *Request) (*Response, error)` on that error, which is returned as
/// it is unless it says that the round tripper is to be passed over: word 1 the response, 2 and 3 the error.
#[uprobe]
pub(crate) fn go_net_http_round_trip_alternative(ctx: ProbeContext) -> u32 {
    let registers = go::registers(&ctx);
    if registers.word::<2>() == 0 || !is_passed_over(registers.word::<3>()) {
        end(&ctx, EventKind::GoNetHttpCall);
    }
    0
}

/// Whether the error is `http.ErrSkipAltProtocol`, as far as its text tells.
#[inline(always)]
fn is_passed_over(error: u64) -> bool {
    const TEXT: [u8; 33] = *b"net/http: skip alternate protocol";
    let Some(text) = memory::read::<GoString>(error) else {
        return false;
    };
    text.len == TEXT.len() as u64 && memory::read::<[u8; TEXT.len()]>(text.address) == Some(TEXT)
}

/// A call returns, without a response or in a way that the program above does not see.
///
/// `func (t *Transport) roundTrip(req *Request) (*Response, error)`: results: word 1 the response, 2 and 3 the
/// error. On amd64 a `RET` is single-stepped, the dearest hook there is.
#[uprobe]
pub(crate) fn go_net_http_round_trip_return(ctx: ProbeContext) -> u32 {
    end(&ctx, EventKind::GoNetHttpCall);
    0
}

/// Ends the call of the goroutine, if it is of this kind.
#[inline(always)]
pub(crate) fn end(ctx: &ProbeContext, kind: EventKind) {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::hit(ctx)
    else {
        return;
    };
    let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) else {
        emit::count(LossReason::ReadFault);
        return;
    };
    let Some(state) = certain(&goroutine) else {
        // Mostly there is none: it began before the probe, or was counted as lost at its start.
        abandon(&goroutine);
        return;
    };
    if state.kind != kind {
        // Another transport asks for it, and has not had its answer.
        return;
    }
    let _counted = scratch::with(|scratch| send(registers, state, &goroutine, target, scratch));
    let _ours_alone = GO_CALLS.remove(&goroutine);
}

#[inline(always)]
fn send(
    registers: Registers,
    state: &CallState,
    goroutine: &GoroutineKey,
    target: &TargetInfo,
    scratch: &mut Scratch,
) -> Option<()> {
    let mut event = state.event(goroutine, outcome(state));
    let error = registers.word::<2>();
    if error != 0 {
        event.flags |= CALL_FAILED;
        let error = GoInterface {
            kind: error,
            data: registers.word::<3>(),
        };
        snapshot_error(error, snapshot(scratch));
    } else if let Some((status, bytes)) =
        read_response(registers.word::<1>(), &target.offsets, &mut scratch.window)
    {
        event.status = status;
        event.response_bytes = bytes;
    }
    emit_call(state, event, scratch)
}

#[inline(always)]
fn read_response(response: u64, offsets: &Offsets, window: &mut Window) -> Option<(u16, i64)> {
    let length_at = offsets.get(GoField::ResponseContentLength)?;
    let window = window.fetch(response, length_at)?;
    let status = window.word(offsets.get(GoField::ResponseStatusCode)?)?;
    Some((status as u16, window.word(length_at)? as i64))
}

/// Where `net.OpError` keeps the error it wraps: behind two strings and two interfaces.
const OP_ERROR_ERR: u64 = 64;
/// Where `os.SyscallError` keeps the error it wraps: behind a string.
const SYSCALL_ERROR_ERR: u64 = 16;

/// Reads an error and what it may wrap, without knowing types: user space knows them and takes what applies.
#[inline(always)]
fn snapshot_error(error: GoInterface, snapshot: &mut ErrorSnapshot) {
    let [value, wrapped, op_error, syscall_error] = &mut snapshot.values;
    snapshot_value(error, value);
    snapshot_wrapped(error.data, 0, wrapped);
    let inner = snapshot_wrapped(error.data, OP_ERROR_ERR, op_error);
    snapshot_wrapped(inner, SYSCALL_ERROR_ERR, syscall_error);
}

/// Reads what an interface at `offset` of `data` would hold; the data's address.
#[inline(always)]
fn snapshot_wrapped(data: u64, offset: u64, to: &mut ErrorValue) -> u64 {
    let interface = memory::read(data.wrapping_add(offset)).unwrap_or(GoInterface { kind: 0, data: 0 });
    snapshot_value(interface, to);
    interface.data
}
