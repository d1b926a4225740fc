//! The client: from a call's first attempt to its end. Exit spans.
//!
//! A call is known by its `*clientStream`: it may be begun, written to, read from and ended on different goroutines.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::{HashMap, LruHashMap},
    programs::ProbeContext,
};
use probe_common::{
    event::{
        EventKind,
        go::{
            grpc::{CALL_CLIENT_STREAMS, CALL_SERVER_STREAMS, MESSAGES_COUNTED, STATUS_READ},
            net_http::{CALL_FAILED, CALL_TRUNCATED, ERROR_TEXT_MAX, ErrorValue},
        },
    },
    field::{GoField, Offsets},
    key::{GoroutineKey, HopKey, PointerKey},
    limits::{HOST_MAX, OPEN_REQUESTS_MAX, PATH_MAX},
    loss::LossReason,
    propagation::Outcome,
    target::{TARGET_COUNTS_CALLED, TargetInfo},
};

use super::{key, messages, request::status_code};
use crate::{
    emit,
    go::{
        self, Hit, Registers,
        call::{CallState, emit_call, find_parent, outcome, snapshot, snapshot_value},
        connection::socket,
        doubt, header_fields,
        request::{Sw8Of, hash_of_sw8},
    },
    log::kernel_log,
    memory::{self, GoInterface, GoString},
    propagation::{frames, header, hop},
    scratch::{self, Scratch},
};

/// A call that is about to send its headers. It may be over before they are written, and another begin at its address.
#[derive(Clone, Copy)]
#[repr(C)]
struct Attempt {
    /// Its `clientStream`.
    call: u64,
    /// What tells it from others: [`CallState::owner`].
    owner: u64,
}

impl Attempt {
    /// The call, unless it is over.
    #[inline(always)]
    fn call(self, tgid: u32) -> Option<&'static mut CallState> {
        // SAFETY: one attempt of a call is made at a time; what else is written of it is its end.
        let state = unsafe { &mut *GRPC_CALLS.get_ptr_mut(&key(self.call, tgid))? };
        if state.owner() == self.owner && doubt::is_certain(tgid, state.start_ns) {
            Some(state)
        } else {
            None
        }
    }
}

/// GoroutineKey → the `clientStream` that it is about to send the headers of.
#[map]
static GRPC_ATTEMPTS: LruHashMap<GoroutineKey, Attempt> = LruHashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// Address of a stream's header fields → its `clientStream`. The goroutine that writes frames has nothing else of the
/// call that made them.
#[map]
static GRPC_HEADER_FIELDS: LruHashMap<PointerKey, Attempt> =
    LruHashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// Address of a `clientStream` → the call. Deleted at the call's end; what a dying process leaves, the loader sweeps.
#[map]
static GRPC_CALLS: HashMap<PointerKey, CallState> = HashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// A call is about to be tried, for the first time or again.
///
/// `func (cs *clientStream) newAttemptLocked(...)`: word 1 the call.
#[uprobe]
pub(crate) fn go_grpc_new_attempt(ctx: ProbeContext) -> u32 {
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
    let key = key(registers.word::<1>(), tgid);
    // SAFETY: what is read of it does not change.
    let mut begun = unsafe { GRPC_CALLS.get(&key) };
    if begun.is_some_and(|state| !doubt::is_certain(tgid, state.start_ns)) {
        abandon(&key);
        begun = None;
    }
    let owner = match begun {
        // Another attempt of the same call.
        Some(state) => state.prepares(target),
        None => scratch::with(|scratch| begin(registers, &goroutine, key, target, scratch)),
    };
    if let Some(owner) = owner {
        let call = key.pointer;
        let _ages_out = GRPC_ATTEMPTS.insert(&goroutine, &Attempt { call, owner }, 0);
    }
    0
}

#[inline(always)]
fn begin(
    registers: Registers,
    goroutine: &GoroutineKey,
    key: PointerKey,
    target: &TargetInfo,
    scratch: &mut Scratch,
) -> Option<u64> {
    let offsets = &target.offsets;
    scratch.call.begin(EventKind::GoGrpcCall, target);
    scratch.call.flags = 0;
    let Some(context) = read_call(key.pointer, offsets, scratch) else {
        abandon(&key);
        return emit::lose(LossReason::ReadFault);
    };
    find_parent(
        &mut scratch.call,
        goroutine,
        registers.g(),
        context,
        target,
        &mut scratch.sampling_path,
    );
    kernel_log!(
        "gRPC call begins on goroutine {} of {}, parent found by way {}",
        goroutine.goid,
        key.tgid,
        scratch.call.parent as u32
    );
    if GRPC_CALLS.insert(&key, &scratch.call, 0).is_err() {
        return emit::lose(LossReason::CallsFull);
    }
    if target.flags & TARGET_COUNTS_CALLED != 0
        && scratch.call.flags & (CALL_CLIENT_STREAMS | CALL_SERVER_STREAMS) != 0
    {
        messages::begin(&key);
    }
    scratch.call.prepares(target)
}

/// The call at this address could not be followed any further, or another one begins there: no end of it will be seen.
#[inline(always)]
fn abandon(key: &PointerKey) {
    if GRPC_CALLS.remove(key).is_ok() {
        emit::count(LossReason::EndMissed);
    }
    messages::forget(key);
}

/// Method, target, kind of streams; the address of the context.
#[inline(always)]
fn read_call(stream: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<u64> {
    let state = &mut scratch.call;
    let context: GoInterface = memory::read(stream + offsets.get(GoField::GrpcClientStreamCtx)?)?;
    let header: u64 = memory::read(stream + offsets.get(GoField::GrpcClientStreamCallHdr)?)?;
    let method: GoString = memory::read(header + offsets.get(GoField::GrpcCallHdrMethod)?)?;
    state.path_len = memory::read_string::<PATH_MAX>(method, state.path.as_mut_ptr())?;
    let connection: u64 = memory::read(stream + offsets.get(GoField::GrpcClientStreamCc)?)?;
    let peer: GoString = memory::read(connection + offsets.get(GoField::GrpcClientConnTarget)?)?;
    state.peer_len = memory::read_string::<HOST_MAX>(peer, state.peer.as_mut_ptr())?;
    if method.len > PATH_MAX as u64 || peer.len > HOST_MAX as u64 {
        state.flags |= CALL_TRUNCATED;
    }
    let desc: u64 = memory::read(stream + offsets.get(GoField::GrpcClientStreamDesc)?)?;
    let streams = |field| Some(memory::read::<u8>(desc + offsets.get(field)?)? != 0);
    if streams(GoField::GrpcStreamDescClientStreams)? {
        state.flags |= CALL_CLIENT_STREAMS;
    }
    if streams(GoField::GrpcStreamDescServerStreams)? {
        state.flags |= CALL_SERVER_STREAMS;
    }
    Some(context.data)
}

/// The header fields of an attempt have been made.
///
/// At the branch of `func (t *http2Client) NewStream(ctx context.Context, callHdr *CallHdr, ...)` on the error that
/// `createHeaderFields` has returned: words 1 and 2 the fields, 4 the error's type.
#[uprobe]
pub(crate) fn go_grpc_header_fields(ctx: ProbeContext) -> u32 {
    let registers = go::registers(&ctx);
    if registers.word::<4>() != 0 {
        return 0;
    }
    let Some(Hit { tgid, target, .. }) = go::hit(&ctx) else {
        return 0;
    };
    let fields = GoString {
        address: registers.word::<1>(),
        len: registers.word::<2>(),
    };
    let place = key(fields.address, tgid);
    if note_attempt(registers, fields, &place, target).is_none() {
        // Those of an earlier stream, whose headers were never written, may have lain there.
        let _mostly_none = GRPC_HEADER_FIELDS.remove(&place);
    }
    0
}

/// Notes under the address of its header fields whose attempt this is.
#[inline(always)]
fn note_attempt(
    registers: Registers,
    fields: GoString,
    place: &PointerKey,
    target: &TargetInfo,
) -> Option<()> {
    let tgid = place.tgid;
    let goroutine = go::goroutine(tgid, registers.g(), &target.offsets)?;
    // SAFETY: a plain number.
    let attempt = *unsafe { GRPC_ATTEMPTS.get(&goroutine) }?;
    // The next stream of this goroutine may be one that is no call, such as a health check.
    let _ours_alone = GRPC_ATTEMPTS.remove(&goroutine);
    let state = attempt.call(tgid)?;
    scratch::with(|scratch| {
        if header_fields::note(fields, scratch).is_none() {
            state.outcome = Outcome::Refused as u32;
            return emit::lose(LossReason::PropagationRefused);
        }
        if scratch.incoming.has_sw8() && !forwards(state, tgid, scratch) {
            state.outcome = Outcome::Present as u32;
            return emit::lose(LossReason::PropagationPresent);
        }
        GRPC_HEADER_FIELDS.insert(place, &attempt, 0).ok()
    })
}

/// Whether the `sw8` among the fields is the one that the call's parent came with.
#[inline(always)]
fn forwards(state: &CallState, tgid: u32, scratch: &Scratch) -> bool {
    let own = hash_of_sw8(scratch, Sw8Of::Incoming, u32::from(scratch.incoming.sw8_len));
    header::forwards(state, tgid, own)
}

/// A stream's headers are about to be put into a frame, on the goroutine that writes the connection.
///
/// At the client's call of `func (l *loopyWriter) writeHeader(streamID uint32, endStream bool, hf []hpack.HeaderField,
/// ...)`: word 1 the writer, 2 the stream, 4 the fields. Servers call it, too, and pay nothing.
#[uprobe]
pub(crate) fn go_grpc_write_header(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::hit(&ctx)
    else {
        return 0;
    };
    let fields = key(registers.word::<4>(), tgid);
    // SAFETY: a plain number.
    let Some(attempt) = (unsafe { GRPC_HEADER_FIELDS.get(&fields) }).copied() else {
        return 0;
    };
    let _ours_alone = GRPC_HEADER_FIELDS.remove(&fields);
    let Some(state) = attempt.call(tgid) else {
        return 0;
    };
    let _noted = scratch::with(|scratch| prepare(registers, state, target, tgid, scratch));
    0
}

#[inline(always)]
fn prepare(
    registers: Registers,
    state: &mut CallState,
    target: &TargetInfo,
    tgid: u32,
    scratch: &mut Scratch,
) -> Option<()> {
    let conn = connection(registers.word::<1>(), &target.offsets).unwrap_or(0);
    let stream = registers.word::<2>() as u32;
    let Some(socket) = socket(conn, tgid, &target.offsets, &mut scratch.window) else {
        let Some(hop) = hop::name(conn, stream, target, true, scratch) else {
            state.outcome = Outcome::UnknownConnection as u32;
            return emit::lose(LossReason::PropagationUnknownConnection);
        };
        return hop::offer(state, hop, target, tgid, scratch);
    };
    state.hop = HopKey::NONE;
    if let Err(unwritten) = header::write::<true>(state, target, tgid, scratch) {
        state.outcome = unwritten.outcome() as u32;
        return emit::lose(unwritten.reason());
    }
    state.socket = socket;
    state.stream = stream;
    frames::announce(state, scratch)
}

/// The connection that the writer writes to.
#[inline(always)]
fn connection(writer: u64, offsets: &Offsets) -> Option<u64> {
    let framer: u64 = memory::read(writer + offsets.get(GoField::GrpcLoopyWriterFramer)?)?;
    let buffer: u64 = memory::read(framer + offsets.get(GoField::GrpcFramerWriter)?)?;
    let conn: GoInterface = memory::read(buffer + offsets.get(GoField::GrpcBufWriterConn)?)?;
    Some(conn.data)
}

/// A call is over.
///
/// `func (cs *clientStream) finish(err error)`: word 1 the call, 2 and 3 the error. Called more than once; the first
/// counts.
#[uprobe]
pub(crate) fn go_grpc_finish(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    let key = key(registers.word::<1>(), tgid);
    let error = GoInterface {
        kind: registers.word::<2>(),
        data: registers.word::<3>(),
    };
    end(registers, key, error, target);
    0
}

/// GoroutineKey → the `clientStream` whose attempt has failed and that may be tried again. Deleted when that is
/// decided; what a dying process leaves ages out.
#[map]
static GRPC_RETRIES: LruHashMap<GoroutineKey, u64> = LruHashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// An attempt of a call has failed, and it is about to be decided whether there is another.
///
/// `func (cs *clientStream) retryLocked(...) error`: word 1 the call.
#[uprobe]
pub(crate) fn go_grpc_retry(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    let stream = registers.word::<1>();
    let call = key(stream, tgid);
    // SAFETY: nothing of it is read.
    if unsafe { GRPC_CALLS.get(&call) }.is_none() {
        return 0;
    }
    let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) else {
        // If it ends here, nothing else says so, and it would be taken for the next call at its address.
        abandon(&call);
        return 0;
    };
    let _ages_out = GRPC_RETRIES.insert(&goroutine, &stream, 0);
    0
}

/// It is decided: with an error there is no other attempt.
///
/// Result: word 1 and 2 the error. A call that gets no further than its first attempt, since nobody listens or the name
/// has no address, is given up here without a `finish` (grpc-go 1.38 and later). For all others `finish` follows at
/// once, but for a message that could not be sent: `io.EOF` tells the program to receive, which then says why.
#[uprobe]
pub(crate) fn go_grpc_retry_return(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::hit(&ctx)
    else {
        return 0;
    };
    let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) else {
        emit::count(LossReason::ReadFault);
        return 0;
    };
    // SAFETY: only the goroutine itself touches its entry.
    let Some(stream) = (unsafe { GRPC_RETRIES.get(&goroutine) }).copied() else {
        return 0;
    };
    let _ours_alone = GRPC_RETRIES.remove(&goroutine);
    let call = key(stream, tgid);
    // SAFETY: what is read of it does not change.
    if unsafe { GRPC_CALLS.get(&call) }.is_some_and(|state| !doubt::is_certain(tgid, state.start_ns)) {
        // What was noted of the goroutine may be of an earlier attempt.
        abandon(&call);
        return 0;
    }
    let error = GoInterface {
        kind: registers.word::<1>(),
        data: registers.word::<2>(),
    };
    if error.kind != 0 && !is_eof(error.data) {
        end(registers, call, error, target);
    }
    0
}

/// Whether the error is `io.EOF`, as far as its text tells.
#[inline(always)]
fn is_eof(error: u64) -> bool {
    let Some(text) = memory::read::<GoString>(error) else {
        return false;
    };
    text.len == 3 && memory::read::<[u8; 3]>(text.address) == Some(*b"EOF")
}

#[inline(always)]
fn end(registers: Registers, key: PointerKey, error: GoInterface, target: &TargetInfo) {
    // Absent: it began before the probe, was counted as lost at its start, or is over.
    let Some(state) = GRPC_CALLS.get_ptr_mut(&key) else {
        return;
    };
    let ran = scratch::with(|scratch| {
        // SAFETY: nothing writes to a call between its beginning and its end: the copy is whole, and the removal
        // below decides who has ended it.
        scratch.call = unsafe { *state };
        if GRPC_CALLS.remove(&key).is_ok() {
            let _counted = send(registers, &key, error, target, scratch);
        }
        Some(())
    });
    if ran.is_none() {
        let _over = GRPC_CALLS.remove(&key);
    }
}

/// Where `fmt.wrapError` keeps the error it wraps: behind its text.
const WRAP_ERROR_ERR: u64 = 16;

#[inline(always)]
fn send(
    registers: Registers,
    key: &PointerKey,
    error: GoInterface,
    target: &TargetInfo,
    scratch: &mut Scratch,
) -> Option<()> {
    let offsets = &target.offsets;
    let Some(goroutine) = go::goroutine(key.tgid, registers.g(), offsets) else {
        return emit::lose(LossReason::ReadFault);
    };
    let mut event = scratch.call.event(&goroutine, outcome(&scratch.call));
    if messages::take(key, scratch) {
        event.flags |= MESSAGES_COUNTED;
    }
    if error.kind == 0 {
        event.flags |= STATUS_READ;
    } else {
        event.flags |= CALL_FAILED;
        let values = &mut snapshot(scratch).values;
        let [value, wrapped, third, fourth] = values;
        snapshot_value(error, value);
        if let Some(code) = read_status(error.data, offsets, value) {
            event.status = code;
            event.flags |= STATUS_READ;
        }
        let inner = memory::read(error.data.wrapping_add(WRAP_ERROR_ERR));
        let inner = inner.unwrap_or(GoInterface { kind: 0, data: 0 });
        snapshot_value(inner, wrapped);
        match read_status(inner.data, offsets, wrapped) {
            Some(code) => wrapped.word = u64::from(code),
            None => wrapped.type_address = 0,
        }
        third.type_address = 0;
        fourth.type_address = 0;
    }
    let call = &raw const scratch.call;
    // SAFETY: packing a record writes to `scratch.record` alone.
    emit_call(unsafe { &*call }, event, scratch)
}

/// Reads the error as the `*status.Error` that it mostly is: its code, and its message in place of the text. What it
/// really is, user space knows by its type.
#[inline(always)]
fn read_status(error: u64, offsets: &Offsets, value: &mut ErrorValue) -> Option<u16> {
    let status: u64 = memory::read(error + offsets.get(GoField::GrpcStatusErrorS)?)?;
    if status == 0 {
        return None;
    }
    let code = status_code(status, offsets)?;
    let message: u64 = memory::read(status + offsets.get(GoField::GrpcStatusS)?)?;
    let text: GoString = memory::read(message + offsets.get(GoField::GrpcStatusMessage)?)?;
    if let Some(len) = memory::read_string::<ERROR_TEXT_MAX>(text, value.text.as_mut_ptr()) {
        value.text_len = u32::from(len);
    }
    Some(code)
}
