//! The client: from a call's first attempt to its end. Exit spans.
//!
//! A call is known by its `*clientStream`: it may be begun, written to, read from and ended on different goroutines.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::HashMap,
    programs::ProbeContext,
};
use probe_common::{
    event::{
        EventKind,
        go::{
            grpc::{CALL_CLIENT_STREAMS, CALL_SERVER_STREAMS, STATUS_READ},
            net_http::{CALL_FAILED, CALL_TRUNCATED, ErrorValue},
        },
    },
    field::{GoField, Offsets},
    key::PointerKey,
    limits::{HOST_MAX, OPEN_REQUESTS_MAX, PATH_MAX},
    loss::LossReason,
    propagation::Outcome,
    target::TargetInfo,
};

use super::request::status_code;
use crate::{
    emit,
    go::{
        self, Registers,
        net_http::call::{CallState, emit_call, find_parent, snapshot, snapshot_value},
    },
    log::kernel_log,
    memory::{self, GoInterface, GoString},
    scratch::{self, Scratch},
    target,
};

/// Address of a `clientStream` → the call. Deleted at the call's end; what a dying process leaves, the loader sweeps.
#[map]
static GRPC_CALLS: HashMap<PointerKey, CallState> = HashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// A call is about to be tried, for the first time or again.
///
/// `func (cs *clientStream) newAttemptLocked(...)`: word 1 the call.
#[uprobe]
pub(crate) fn go_grpc_new_attempt(ctx: ProbeContext) -> u32 {
    let registers = go::registers(&ctx);
    if registers.will_restart() {
        return 0;
    }
    let tgid = target::tgid();
    let Some(target) = target::find(tgid) else {
        return 0;
    };
    let key = key(registers.word::<1>(), tgid);
    // SAFETY: nothing of it is read.
    if unsafe { GRPC_CALLS.get(&key) }.is_some() {
        // Another attempt of the same call.
        return 0;
    }
    let Some(scratch) = scratch::take() else {
        emit::count(LossReason::ScratchBusy);
        return 0;
    };
    let _counted = begin(registers, key, target, scratch);
    scratch::give_back(scratch);
    0
}

#[inline(always)]
fn key(stream: u64, tgid: u32) -> PointerKey {
    PointerKey {
        pointer: stream,
        tgid,
        _pad: 0,
    }
}

#[inline(always)]
fn begin(registers: Registers, key: PointerKey, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let offsets = &target.offsets;
    let Some(goroutine) = go::goroutine(key.tgid, registers.g(), offsets) else {
        return emit::lose(LossReason::ReadFault);
    };
    scratch.call.begin(EventKind::GoGrpcCall);
    scratch.call.flags = 0;
    scratch.call.outcome = Outcome::Off as u32;
    let Some(context) = read_call(key.pointer, offsets, scratch) else {
        return emit::lose(LossReason::ReadFault);
    };
    find_parent(&mut scratch.call, &goroutine, registers.g(), context, offsets);
    kernel_log!(
        "gRPC call begins on goroutine {} of {}, parent found by way {}",
        goroutine.goid,
        key.tgid,
        scratch.call.parent as u32
    );
    if GRPC_CALLS.insert(&key, &scratch.call, 0).is_err() {
        return emit::lose(LossReason::CallsFull);
    }
    Some(())
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

/// A call is over.
///
/// `func (cs *clientStream) finish(err error)`: word 1 the call, 2 and 3 the error. Called more than once; the first
/// counts.
#[uprobe]
pub(crate) fn go_grpc_finish(ctx: ProbeContext) -> u32 {
    let registers = go::registers(&ctx);
    if registers.will_restart() {
        return 0;
    }
    let tgid = target::tgid();
    let Some(target) = target::find(tgid) else {
        return 0;
    };
    let key = key(registers.word::<1>(), tgid);
    // Absent: it began before the probe, was counted as lost at its start, or is over.
    let Some(state) = GRPC_CALLS.get_ptr_mut(&key) else {
        return 0;
    };
    match scratch::take() {
        Some(scratch) => {
            // SAFETY: `finish` is entered with the call's lock not held, but by one goroutine first: the copy is
            // whole, and the removal below decides.
            scratch.call = unsafe { *state };
            // Whoever removes it has ended it.
            if GRPC_CALLS.remove(&key).is_ok() {
                let _counted = send(registers, tgid, target, scratch);
            }
            scratch::give_back(scratch);
        }
        None => {
            let _over = GRPC_CALLS.remove(&key);
            emit::count(LossReason::ScratchBusy);
        }
    }
    0
}

#[inline(always)]
fn send(registers: Registers, tgid: u32, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let offsets = &target.offsets;
    let Some(goroutine) = go::goroutine(tgid, registers.g(), offsets) else {
        return emit::lose(LossReason::ReadFault);
    };
    let mut event = scratch.call.event(&goroutine, scratch.call.outcome);
    let error = GoInterface {
        kind: registers.word::<2>(),
        data: registers.word::<3>(),
    };
    if error.kind == 0 {
        event.flags |= STATUS_READ;
    } else {
        event.flags |= CALL_FAILED;
        let values = &mut snapshot(scratch).values;
        let [value, ..] = values;
        snapshot_value(error, value);
        if let Some(code) = read_status(error.data, offsets, value) {
            event.status = code;
            event.flags |= STATUS_READ;
        }
        let [_, second, third, fourth] = values;
        second.type_address = 0;
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
    if let Some(len) = memory::read_string::<{ probe_common::event::go::net_http::ERROR_TEXT_MAX }>(
        text,
        value.text.as_mut_ptr(),
    ) {
        value.text_len = u32::from(len);
    }
    Some(code)
}

const _: () = assert!(size_of::<CallState>() % 8 == 0);
