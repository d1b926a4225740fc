//! The only reads of the target's memory. A read that fails is a counted loss at the caller.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use probe_common::array;

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
    let kept = at_most::<MAX>(len);
    if kept == 0 {
        return Some(0);
    }
    // SAFETY: the verifier proves that `kept` bytes fit at `to`.
    let failed = unsafe { bpf_probe_read_user(to.cast(), kept as u32, address as *const _) };
    if failed == 0 { Some(kept as u16) } else { None }
}

/// The most of a struct that is read at once: a whole `http.Request`.
const WINDOW_BYTES: usize = 320;

/// The beginning of a struct of the target, in memory of our own. A read costs nearly the same whatever its length, so
/// neighbours are fetched together.
#[repr(C, align(8))]
pub(crate) struct Window {
    /// How much of it was fetched.
    len: u64,
    bytes: [u8; WINDOW_BYTES],
}

// === impl Window ===

impl Window {
    /// Fetches the struct at `address` up to the end of the 8-byte field at `last`, which lies within it: nothing
    /// beyond the struct is touched, where memory may end.
    #[inline(always)]
    pub(crate) fn fetch(&mut self, address: u64, last: u64) -> Option<&Self> {
        if last > WINDOW_BYTES as u64 - 8 {
            return None;
        }
        self.len = u64::from(read_bytes::<WINDOW_BYTES>(
            address,
            last + 8,
            self.bytes.as_mut_ptr(),
        )?);
        Some(self)
    }

    /// The 8-byte field at `offset`; nothing if it lies behind what was fetched, as it would if a version of Go put
    /// the fields into another order.
    #[inline(always)]
    pub(crate) fn word(&self, offset: u64) -> Option<u64> {
        // Where the compiler knows that the offset is below one that was checked, it would spare the check that the
        // verifier needs.
        let offset = u64::from(array::bound(offset as u32));
        if offset > WINDOW_BYTES as u64 - 8 || offset + 8 > self.len {
            return None;
        }
        // SAFETY: within the window; volatile, so that the compiler keeps the check before each read.
        unsafe {
            Some(core::ptr::read_volatile(
                self.bytes.as_ptr().add(offset as usize).cast::<u64>(),
            ))
        }
    }

    /// The string, or the first two words of the slice, at `offset`.
    #[inline(always)]
    pub(crate) fn string(&self, offset: u64) -> Option<GoString> {
        Some(GoString {
            address: self.word(offset)?,
            len: self.word(offset + 8)?,
        })
    }

    /// The interface at `offset`.
    #[inline(always)]
    pub(crate) fn interface(&self, offset: u64) -> Option<GoInterface> {
        Some(GoInterface {
            kind: self.word(offset)?,
            data: self.word(offset + 8)?,
        })
    }
}

/// Copies an id, both of whose places are aligned to words: of an assignment the compiler would make a loop over bytes.
/// Volatile, as who copies from an entry of a table may look before and after whose it is.
#[inline(always)]
pub(crate) fn copy_id(from: &[u8; 16], to: &mut [u8; 16]) {
    let (from, to) = (from.as_ptr().cast::<u64>(), to.as_mut_ptr().cast::<u64>());
    // SAFETY: two words each.
    unsafe {
        *to = core::ptr::read_volatile(from);
        *to.add(1) = core::ptr::read_volatile(from.add(1));
    }
}

/// Copies `len` bytes, at most `MAX`, between two places in kernel memory.
#[inline(always)]
pub(crate) fn copy<const MAX: usize>(from: *const u8, len: u32, to: *mut u8) -> u32 {
    let kept = at_most::<MAX>(u64::from(len)) as u32;
    // SAFETY: the verifier proves that `kept` bytes fit at `to`; a bad `from` fails without a fault.
    unsafe { bpf_probe_read_kernel(to.cast(), kept, from.cast()) };
    kept
}

/// The smaller of the two, in a register that the verifier knows to be small, whichever kernel's it is.
///
/// A comparison would do for newer ones. But the compiler may compare a copy, or the length less a constant, and before
/// Linux 6.18 the verifier does not see each time that this bounds the length itself. So what comes out of the
/// comparison is masked once more, where the compiler cannot see that this changes nothing; up to twice `MAX`, less
/// one, must fit into the map's value.
#[inline(always)]
fn at_most<const MAX: usize>(len: u64) -> u64 {
    let kept = if len > MAX as u64 { MAX as u64 } else { len };
    // SAFETY: a reference is valid for reading.
    let kept = unsafe { core::ptr::read_volatile(&raw const kept) };
    kept & const { (MAX as u64 + 1).next_power_of_two() - 1 }
}
