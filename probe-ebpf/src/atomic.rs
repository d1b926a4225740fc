//! Atomic arithmetic on map memory. The BPF target has no stable atomics with a result, so these are the
//! compiler's intrinsics; each becomes one instruction (kernel 5.12 and later).
//!
//! The additions ask for an order that the kernel gives anyway: LLVM 22 makes a relaxed one into the instruction
//! without a result, even where the result is used, and the addend is taken for it.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

/// Adds to the number at `counter`; what it was before.
///
/// # Safety
/// `counter` must be an aligned number in map memory.
#[inline(always)]
pub(crate) unsafe fn add_u32(counter: *mut u32, addend: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::AcqRel }>(counter, addend) }
}

/// As [`add_u32`], for 64 bits.
///
/// # Safety
/// As [`add_u32`].
#[inline(always)]
pub(crate) unsafe fn add_u64(counter: *mut u64, addend: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(counter, addend) }
}

/// Sets the number at `place`; what it was before.
///
/// # Safety
/// As [`add_u32`].
#[inline(always)]
pub(crate) unsafe fn swap_u32(place: *mut u32, value: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::Relaxed }>(place, value) }
}

/// Sets the number at `place` if it is `before`; whether it was.
///
/// # Safety
/// As [`add_u32`].
#[inline(always)]
pub(crate) unsafe fn replace_u64(place: *mut u64, before: u64, after: u64) -> bool {
    // SAFETY: the caller's promise.
    let (_, was) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(place, before, after)
    };
    was
}
