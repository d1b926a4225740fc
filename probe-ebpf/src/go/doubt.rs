//! When what is kept of a process's goroutines stopped being certain.
//!
//! What one hook begins another ends, and they meet by the goroutine. A hook that cannot read which one it runs on ends
//! nothing: what it should have ended stays, and might be taken for what comes next on that goroutine. So it notes the
//! moment, and what began before is nobody's parent afterwards, and no call's beginning.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, LruHashMap},
};
use probe_common::limits::TARGETS_MAX;

/// tgid → when one of its goroutines could last not be told.
#[map]
static DOUBTS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(TARGETS_MAX, 0);

/// Not 0 once there has been any: almost always there is none, and then nothing is looked up.
#[map]
static DOUBTED: Array<u32> = Array::with_max_entries(1, 0);

/// From now on, what began before is not believed.
#[inline(always)]
pub(crate) fn raise(tgid: u32) {
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let _ages_out = DOUBTS.insert(tgid, now_ns, 0);
    if let Some(any) = DOUBTED.get_ptr_mut(0) {
        // SAFETY: a live number, to which nothing else is ever written.
        unsafe { core::ptr::write_volatile(any, 1) };
    }
}

/// Whether what began at `start_ns` in this process can be believed.
#[inline(always)]
pub(crate) fn is_certain(tgid: u32, start_ns: u64) -> bool {
    if DOUBTED.get(0).is_none_or(|any| *any == 0) {
        return true;
    }
    // SAFETY: a plain number.
    unsafe { DOUBTS.get(tgid) }.is_none_or(|since_ns| start_ns > *since_ns)
}
