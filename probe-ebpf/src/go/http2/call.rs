//! The client: calls that `http2.Transport` itself is asked for, and the header of each call that goes by HTTP/2.
//!
//! A stream's headers are written on a goroutine that the caller's has made for it, and the caller waits meanwhile.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use probe_common::{
    event::EventKind,
    field::{GoField, Offsets},
    key::{GoroutineKey, HopKey, PointerKey},
    limits::{OPEN_REQUESTS_MAX, SW8_MAX},
    loss::LossReason,
    propagation::Outcome,
    target::TargetInfo,
};

use super::{Package, Standard, XNet};
use crate::{
    emit,
    go::{
        self, Hit, Registers,
        call::{CallState, certain, creator},
        connection::socket,
        map::values_of_sw8,
        net_http,
        request::{Sw8Of, hash_of_sw8},
    },
    memory::{self, GoString},
    propagation::{frames, header, hop},
    scratch::{self, Scratch},
};

/// A client of `golang.org/x/net` begins a call.
///
/// `func (t *Transport) RoundTripOpt(req *http.Request, opt RoundTripOpt) (*http.Response, error)`, `roundTripViaPool` since
/// x/net 0.55: word 1 the transport, 2 the request. Where an `http.Transport` has it as a part, the call is begun already.
#[uprobe]
pub(crate) fn go_x_http2_round_trip(ctx: ProbeContext) -> u32 {
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
    if certain(&goroutine).is_none() {
        net_http::begin_call(EventKind::GoHttp2Call, registers, &goroutine, target);
    }
    0
}

/// Such a call has succeeded.
///
/// At the branch on the error that the function returns: word 1 the response, 2 the error's type.
#[uprobe]
pub(crate) fn go_x_http2_round_trip_success(ctx: ProbeContext) -> u32 {
    if go::registers(&ctx).word::<2>() == 0 {
        net_http::end_call(&ctx, EventKind::GoHttp2Call);
    }
    0
}

/// Such a call returns, without a response or in a way that the program above does not see: results: word 1 the
/// response, 2 and 3 the error.
#[uprobe]
pub(crate) fn go_x_http2_round_trip_return(ctx: ProbeContext) -> u32 {
    net_http::end_call(&ctx, EventKind::GoHttp2Call);
    0
}

/// Address of a request → the goroutine that waits for its answer. Only before Go 1.21, where the stream's goroutine
/// does not know who has made it.
#[map]
static HTTP2_CALLERS: LruHashMap<PointerKey, u64> = LruHashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// A call is about to become a stream of a connection.
///
/// `func (cc *ClientConn) RoundTrip(req *http.Request) (*http.Response, error)`: word 2 the request.
#[uprobe]
pub(crate) fn go_http2_connection_round_trip(ctx: ProbeContext) -> u32 {
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
    let request = request_key(registers.word::<2>(), tgid);
    match go::goroutine(tgid, registers.g(), &target.offsets) {
        Some(goroutine) => {
            let _ages_out = HTTP2_CALLERS.insert(&request, &goroutine.goid, 0);
        }
        None => {
            // An earlier request at this address may have left its own.
            let _mostly_none = HTTP2_CALLERS.remove(&request);
        }
    }
    0
}

#[inline(always)]
fn request_key(request: u64, tgid: u32) -> PointerKey {
    PointerKey {
        pointer: request,
        tgid,
        _pad: 0,
    }
}

/// A stream's headers are about to be written.
///
/// `func (cs *clientStream) encodeAndWriteHeaders(req *http.Request) error`: word 1 the stream, 2 the request; of the
/// standard library's since Go 1.27 a `*ClientRequest`. One goroutine of a connection at a time comes here.
#[uprobe]
pub(crate) fn go_http2_encode_headers(ctx: ProbeContext) -> u32 {
    encode::<Standard>(&ctx);
    0
}

/// The same of `golang.org/x/net`.
#[uprobe]
pub(crate) fn go_x_http2_encode_headers(ctx: ProbeContext) -> u32 {
    encode::<XNet>(&ctx);
    0
}

#[inline(always)]
fn encode<P: Package>(ctx: &ProbeContext) {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(ctx)
    else {
        return;
    };
    if !target.propagates() {
        return;
    }
    let Some(caller) = caller(registers, tgid, &target.offsets) else {
        return;
    };
    // The caller waits for its stream. If it no longer does, its call has been cancelled before, and the function will see
    // that and write nothing: then what is prepared here, of whichever call, is never used.
    let Some(state) = certain(&caller) else {
        return;
    };
    if !state.propagates(target) {
        return;
    }
    let _noted = scratch::with(|scratch| prepare::<P>(registers, state, target, tgid, scratch));
}

/// The goroutine for which this one writes a stream.
#[inline(always)]
fn caller(registers: Registers, tgid: u32, offsets: &Offsets) -> Option<GoroutineKey> {
    let goid = if offsets.get(GoField::GParentGoid).is_some() {
        creator(registers.g(), offsets)?
    } else {
        let request = request_key(registers.word::<2>(), tgid);
        // SAFETY: a plain number.
        let goid = *unsafe { HTTP2_CALLERS.get(&request) }?;
        let _each_once = HTTP2_CALLERS.remove(&request);
        goid
    };
    Some(GoroutineKey { goid, tgid, _pad: 0 })
}

#[inline(always)]
fn prepare<P: Package>(
    registers: Registers,
    state: &mut CallState,
    target: &TargetInfo,
    tgid: u32,
    scratch: &mut Scratch,
) -> Option<()> {
    let offsets = &target.offsets;
    let Some(Stream { id, conn, encrypted }) = read_stream::<P>(registers.word::<1>(), offsets, scratch)
    else {
        state.outcome = Outcome::UnknownConnection as u32;
        return emit::lose(LossReason::PropagationUnknownConnection);
    };
    state.stream = id;
    if encrypted {
        let Some(hop) = hop::name(conn, id, target, true, scratch) else {
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
    state.socket = socket;
    let headers_at = registers.word::<2>() + offsets.get(P::CLIENT_REQUEST_HEADER)?;
    let own = memory::read(headers_at).and_then(|headers| values_of_sw8(headers, offsets, scratch));
    let Some(own) = own else {
        // It cannot be read, or has more than one looks at: it may have one.
        state.outcome = Outcome::Refused as u32;
        return emit::lose(LossReason::PropagationRefused);
    };
    // The fields are packed, so one that is only forwarded cannot be taken out; ours comes behind it, and the last counts.
    if own.len != 0 && !is_forwarded(own, state, tgid, scratch) {
        state.outcome = Outcome::Present as u32;
        return emit::lose(LossReason::PropagationPresent);
    }
    if let Err(unwritten) = header::write::<true>(state, target, tgid, scratch) {
        state.outcome = unwritten.outcome() as u32;
        return emit::lose(unwritten.reason());
    }
    frames::announce(state, scratch)
}

/// A stream that is about to be written.
struct Stream {
    id: u32,
    /// The `net.Conn` that it is written to.
    conn: u64,
    encrypted: bool,
}

#[inline(always)]
fn read_stream<P: Package>(stream: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<Stream> {
    let id: u32 = memory::read(stream + offsets.get(P::CLIENT_STREAM_ID)?)?;
    let connection: u64 = memory::read(stream + offsets.get(P::CLIENT_STREAM_CONN)?)?;
    let conn_at = offsets.get(P::CLIENT_CONN)?;
    let tls_at = offsets.get(P::CLIENT_TLS_STATE)?;
    let last = if tls_at > conn_at + 8 { tls_at } else { conn_at + 8 };
    let fields = scratch.window.fetch(connection, last)?;
    Some(Stream {
        id,
        conn: fields.interface(conn_at)?.data,
        encrypted: fields.word(tls_at)? != 0,
    })
}

/// Whether the last of these values of `sw8` is the one that the call's parent came with.
#[inline(always)]
fn is_forwarded(values: GoString, state: &CallState, tgid: u32, scratch: &mut Scratch) -> bool {
    let last = values.address + (values.len - 1) * size_of::<GoString>() as u64;
    let Some(value) = memory::read::<GoString>(last) else {
        return false;
    };
    if value.len >= SW8_MAX as u64 {
        return false;
    }
    match memory::read_string::<SW8_MAX>(value, scratch.incoming.sw8.as_mut_ptr()) {
        Some(len) => {
            let own = hash_of_sw8(scratch, Sw8Of::Incoming, u32::from(len));
            header::forwards(state, tgid, own)
        }
        None => false,
    }
}
