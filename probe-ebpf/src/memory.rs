//! The only reads of the target's memory. A read that fails is a counted loss at the caller.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};

/// A Go string or the first two words of a slice.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct GoString {
    pub(crate) address: u64,
    pub(crate) len: u64,
}

/// A Go interface: its type (or method table) and its data.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct GoInterface {
    pub(crate) kind: u64,
    pub(crate) data: u64,
}

/// Reads a `T` of the target at `address`.
#[inline(always)]
pub(crate) fn read<T: Copy>(address: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes, or zeroes them and fails.
    let failed = unsafe {
        bpf_probe_read_user(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        )
    };
    // SAFETY: filled above; every `T` used here is plain integers.
    if failed == 0 {
        Some(unsafe { value.assume_init() })
    } else {
        None
    }
}

/// Reads up to `MAX` bytes of a Go string into `to`, which must lie in map memory; how many it kept.
#[inline(always)]
pub(crate) fn read_string<const MAX: usize>(string: GoString, to: *mut u8) -> Option<u16> {
    read_bytes::<MAX>(string.address, string.len, to)
}

/// Reads the first `len` bytes at `address`, at most `MAX`, into `to`.
#[inline(always)]
pub(crate) fn read_bytes<const MAX: usize>(address: u64, len: u64, to: *mut u8) -> Option<u16> {
    let mut kept = len;
    if kept > MAX as u64 {
        kept = MAX as u64;
    }
    if kept == 0 {
        return Some(0);
    }
    // SAFETY: the verifier proves that `kept` bytes fit at `to`.
    let failed = unsafe { bpf_probe_read_user(to.cast(), kept as u32, address as *const _) };
    if failed == 0 { Some(kept as u16) } else { None }
}

/// Copies `len` bytes, at most `MAX`, between two places in kernel memory.
#[inline(always)]
pub(crate) fn copy<const MAX: usize>(from: *const u8, len: u32, to: *mut u8) -> u32 {
    let mut kept = len;
    if kept > MAX as u32 {
        kept = MAX as u32;
    }
    // SAFETY: the verifier proves that `kept` bytes fit at `to`; a bad `from` fails without a fault.
    unsafe { bpf_probe_read_kernel(to.cast(), kept, from.cast()) };
    kept
}
