//! The one way out: a record goes to the ring, or is counted as lost.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ringbuf_output,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use probe_common::{
    limits::RING_BYTES,
    loss::{LOSS_COUNTERS, LossReason},
};

use crate::{atomic, log::kernel_log};

/// Records for user space.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// `LossReason` → how often. Only ever counted up.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_COUNTERS, 0);

/// Counts a loss and is the `None` to return with.
#[inline(always)]
pub(crate) fn lose<T>(reason: LossReason) -> Option<T> {
    count(reason);
    None
}

/// Counts a loss after which the program goes on.
#[inline(always)]
pub(crate) fn count(reason: LossReason) {
    kernel_log!("lost, reason {}", reason as u32);
    if let Some(counter) = LOSSES.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is a live entry of this CPU. Programs may preempt each other on it, hence atomic.
        unsafe { atomic::add_u64(counter, 1) };
    }
}

/// Sends `len` bytes at `record`, the record of a span, which must lie in map memory that holds at least `len` bytes.
#[inline(always)]
pub(crate) fn send(record: *const u8, len: u64) -> Option<()> {
    send_or_lose(record, len, LossReason::RingFull)
}

/// The same of a record that is lost for another reason's count.
#[inline(always)]
pub(crate) fn send_or_lose(record: *const u8, len: u64, reason: LossReason) -> Option<()> {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: the verifier proves that `len` bytes can be read at `record`.
    let failed = unsafe {
        // A wake-up costs the traced program over a microsecond, so only the first record after a drain wakes. User
        // space then lets more come before it drains, so that this is a hundred times a second at most.
        let flags = if EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) == 0 {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        };
        bpf_ringbuf_output(ring, record.cast_mut().cast(), len, u64::from(flags))
    };
    if failed == 0 { Some(()) } else { lose(reason) }
}
