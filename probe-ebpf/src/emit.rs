//! The one way out: a record goes to the ring, or is counted as lost.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ringbuf_output,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use probe_common::{
    array::Unfollowed,
    event::go::grpc::{BothWays, MESSAGES_COUNTED},
    limits::{HEAD_MAX, RING_BYTES},
    loss::{LOSS_COUNTERS, LossReason},
};

use crate::{
    atomic,
    log::kernel_log,
    memory,
    scratch::{SLACK, Scratch},
};

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

/// The record of a span while it is packed, in the scratch: its fixed part, and what follows it.
pub(crate) struct Record {
    bytes: *mut u8,
    /// By way of memory: what comes next is the same to the verifier, whatever came before.
    len: *mut Unfollowed<u64>,
}

impl Record {
    /// Begins behind the fixed part `E`.
    #[inline(always)]
    pub(crate) fn begin<E>(scratch: &mut Scratch) -> Self {
        let mut record = Self {
            bytes: scratch.record.as_mut_ptr(),
            len: &raw mut scratch.record_len,
        };
        record.set_len(size_of::<E>() as u64);
        record
    }

    #[inline(always)]
    fn len(&self) -> u64 {
        // SAFETY: the scratch's.
        unsafe { (*self.len).get() }
    }

    #[inline(always)]
    fn set_len(&mut self, len: u64) {
        // SAFETY: the scratch's.
        unsafe { (*self.len).set(len) }
    }

    /// Leaves what stands there already.
    #[inline(always)]
    pub(crate) fn skip<T>(&mut self) {
        self.set_len(self.len() + size_of::<T>() as u64);
    }

    /// Appends a string.
    #[inline(always)]
    pub(crate) fn append<const MAX: usize>(&mut self, from: *const u8, len: u16) {
        // Twice as much, less one, is what older verifiers know of the length: see `memory::copy`.
        const { assert!((MAX + 1).next_power_of_two() - 1 <= SLACK) };
        if len == 0 {
            return;
        }
        let at = self.len() & (HEAD_MAX as u64 - 1);
        // SAFETY: masked; behind `HEAD_MAX` the record has slack for the longest string.
        let to = unsafe { self.bytes.add(at as usize) };
        let copied = memory::copy::<MAX>(from, u32::from(len), to);
        self.set_len(at + u64::from(copied));
    }

    /// Appends the messages of a stream to a record that has them.
    #[inline(always)]
    pub(crate) fn append_messages(&mut self, flags: u32, messages: &BothWays) {
        const BYTES: usize = size_of::<BothWays>();
        if flags & MESSAGES_COUNTED != 0 {
            self.append::<BYTES>((&raw const *messages).cast(), BYTES as u16);
        }
    }

    /// Sends it, with its fixed part.
    #[inline(always)]
    pub(crate) fn send<E>(self, event: E) -> Option<()> {
        // SAFETY: the record is larger than the event, and 8-aligned.
        unsafe { self.bytes.cast::<E>().write(event) };
        let mut len = self.len();
        if len > HEAD_MAX as u64 {
            len = HEAD_MAX as u64;
        }
        send_or_lose(self.bytes, len, LossReason::RingFull)
    }
}

/// Sends `len` bytes at `record`, which must lie in memory that holds as many. Without room it is lost for `reason`.
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
