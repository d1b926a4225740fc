//! Working memory for one run of a program: the stack holds 512 bytes.
//!
//! Programs at uprobes run with migration off but preemption on, so another program may run on the same CPU in
//! the middle of ours. A plain per-CPU buffer would then be overwritten; here a run takes a slot of its own, and
//! gives it back.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use probe_common::{
    array::Unfollowed,
    context::{sw8::Sw8Places, traceparent::Traceparent},
    event::go::grpc::BothWays,
    head::TEXT_BYTES,
    key::ConnectionKey,
    limits::{HEAD_MAX, METHOD_MAX, PATH_MAX, PATTERN_MAX},
    loss::LossReason,
    operation::Operation,
    propagation::Prepared,
};

use crate::{
    atomic, emit,
    go::{call::CallState, header_fields::Incoming, request::RequestState},
    head::Head,
    memory::Window,
    sampling::PathKey,
};

/// Runs that may be under way on one CPU. More than two have to preempt each other within microseconds.
const SLOTS: u32 = 4;

/// Bytes of what is written in base64 at once.
pub(crate) const PLAIN_BYTES: usize = 256;

/// Bytes behind a buffer into which a copy of masked length may reach.
pub(crate) const SLACK: usize = 2048;

/// One run's working memory.
#[repr(C, align(8))]
pub(crate) struct Scratch {
    busy: u32,
    /// Which slot it is: how a global function, which takes no pointers, finds it again.
    pub(crate) slot: u32,
    pub(crate) request: RequestState,
    pub(crate) w3c_trace_id: [u8; 16],
    pub(crate) call: CallState,
    pub(crate) window: Window,
    pub(crate) connection: ConnectionKey,
    pub(crate) sampling_path: PathKey,
    _sampling_pad: u32,
    pub(crate) incoming: Incoming,
    pub(crate) messages: BothWays,
    pub(crate) prepared: Prepared,
    _prepared_slack: [u8; SLACK],
    pub(crate) text: [u8; TEXT_BYTES],
    pub(crate) head: Head,
    pub(crate) operation: Operation,
    pub(crate) method: [u8; METHOD_MAX],
    pub(crate) path: [u8; PATH_MAX],
    pub(crate) pattern: [u8; PATTERN_MAX],
    /// The endpoint's name, and its length.
    pub(crate) endpoint_len: Unfollowed<u32>,
    pub(crate) endpoint: [u8; 256],
    /// What is about to be written in base64.
    pub(crate) plain: [u8; PLAIN_BYTES],
    pub(crate) trace_base64: [u8; 256],
    /// 0: the trace is of our own making.
    pub(crate) trace_base64_len: Unfollowed<u32>,
    pub(crate) sw8_places: Sw8Places,
    pub(crate) traceparent: Traceparent,
    /// The record that is being made, and how much of it there is.
    pub(crate) record_len: Unfollowed<u64>,
    pub(crate) record: [u8; HEAD_MAX + SLACK],
}

/// Per CPU: the slots.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Runs with a slot of its own; without one nothing runs, which is counted.
#[inline(always)]
pub(crate) fn with<R>(run: impl FnOnce(&mut Scratch) -> Option<R>) -> Option<R> {
    let Some(scratch) = take() else {
        return emit::lose(LossReason::ScratchBusy);
    };
    let result = run(scratch);
    give_back(scratch);
    result
}

/// As [`with`], and what remains to be done without a slot.
#[inline(always)]
pub(crate) fn with_or<R>(run: impl FnOnce(&mut Scratch) -> Option<R>, busy: impl FnOnce()) -> Option<R> {
    let mut is_busy = true;
    let result = with(|scratch| {
        is_busy = false;
        run(scratch)
    });
    if is_busy {
        busy();
    }
    result
}

/// A free slot, or nothing if programs preempt each other more deeply than there are slots.
#[inline(always)]
fn take() -> Option<&'static mut Scratch> {
    let mut index = 0;
    while index < SLOTS {
        let slot = SCRATCH.get_ptr_mut(index)?;
        // SAFETY: `busy` lies in a live entry; the swap makes the rest of the slot ours alone.
        unsafe {
            if atomic::swap_u32(&raw mut (*slot).busy, 1) == 0 {
                (*slot).slot = index;
                return Some(&mut *slot);
            }
        }
        index += 1;
    }
    None
}

/// The slot `index`, which the caller of a global function has taken.
#[inline(always)]
pub(crate) fn taken(index: u32) -> Option<&'static mut Scratch> {
    // SAFETY: the run that took the slot is the one that asks.
    SCRATCH.get_ptr_mut(index).map(|slot| unsafe { &mut *slot })
}

/// Gives a slot back.
#[inline(always)]
fn give_back(scratch: &mut Scratch) {
    // SAFETY: the slot is ours until this very store.
    unsafe { core::ptr::write_volatile(&raw mut scratch.busy, 0) };
}
