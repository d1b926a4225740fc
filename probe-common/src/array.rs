//! Fixed arrays read and written in a way that neither panics nor worries the verifier: the index is masked.

/// Whether `N` can be masked; asserted where an array is touched.
const fn assert_maskable(n: usize) {
    assert!(
        n.is_power_of_two(),
        "the length must be a power of two for its indices to be masked"
    );
}

/// The byte at `at`, counted modulo `N`.
#[inline(always)]
pub fn load<const N: usize>(array: &[u8; N], at: usize) -> u8 {
    const { assert_maskable(N) };
    // SAFETY: masking with `N - 1` keeps the index below `N`, a power of two. Plain indexing would leave a
    // panic in the kernel object wherever the compiler cannot see that.
    unsafe { *array.get_unchecked(at & (N - 1)) }
}

/// Sets the byte at `at`, counted modulo `N`.
#[inline(always)]
pub fn store<const N: usize>(array: &mut [u8; N], at: usize, byte: u8) {
    const { assert_maskable(N) };
    // SAFETY: as in `load`.
    unsafe { *array.get_unchecked_mut(at & (N - 1)) = byte };
}

/// The entry at `at`, counted modulo `N`, of a constant table whose values the compiler shall not look into: from
/// a mask of all bits or none it would make a branch.
#[inline(always)]
pub fn entry<const N: usize>(table: &'static [u32; N], at: usize) -> u32 {
    const { assert_maskable(N) };
    // SAFETY: as in `load`; a volatile read of a reference is valid.
    unsafe { core::ptr::read_volatile(table.get_unchecked(at & (N - 1))) }
}

/// `bound`, of which the compiler shall know nothing.
///
/// A loop here has two ends: a constant one for the verifier, and how many bytes there are. Where the compiler
/// knows that the second comes first, it drops the constant one and tests the other for equality, and the
/// verifier no longer sees an end.
#[inline(always)]
pub fn bound(bound: u32) -> u32 {
    // SAFETY: a reference is valid for reading.
    unsafe { core::ptr::read_volatile(&bound) }
}

/// As [`load`], for a place that is put together by `|`, as a state and a class of bytes are.
///
/// Where the compiler knows that both lie below the mask, it leaves the mask out, and there are verifiers (that of Linux
/// 6.1 with the fixes of 2026) that forget at this instruction what they knew of both. So the mask is written by hand.
#[inline(always)]
pub fn pick<const N: usize>(array: &[u8; N], at: usize) -> u8 {
    const { assert_maskable(N) };
    #[cfg(target_arch = "bpf")]
    let at = {
        let mut at = at as u64;
        // SAFETY: one instruction that changes its register alone.
        unsafe {
            core::arch::asm!("{0} &= {1}", inout(reg) at, const N - 1, options(pure, nomem, nostack));
        }
        at as usize
    };
    #[cfg(not(target_arch = "bpf"))]
    let at = at & (N - 1);
    // SAFETY: as in `load`.
    unsafe { *array.get_unchecked(at) }
}

/// Copies `len` bytes that start at `from` to the place `at` and returns the place after them. Never more than
/// `MAX`; places are counted modulo the arrays' lengths.
#[inline(never)]
pub fn copy<const MAX: usize, const N: usize, const M: usize>(
    text: &[u8; N],
    from: u32,
    len: u32,
    out: &mut [u8; M],
    at: u32,
) -> u32 {
    let len = bound(len);
    for step in 0..MAX as u32 {
        if step >= len {
            break;
        }
        store(
            out,
            at.wrapping_add(step) as usize,
            load(text, from.wrapping_add(step) as usize),
        );
    }
    if len as usize > MAX {
        at + MAX as u32
    } else {
        at + len
    }
}

/// A number that the verifier shall not follow.
///
/// Where a loop's branches leave different constants in a register, the verifier walks every combination of
/// them. A value that comes out of memory is merely unknown, so all ways through the loop's body meet again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Unfollowed<T>(T);

impl<T: Copy> Unfollowed<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    #[inline(always)]
    pub fn get(&self) -> T {
        // SAFETY: a reference is valid, aligned and initialised. Volatile, so that it stays a load.
        unsafe { core::ptr::read_volatile(&self.0) }
    }

    #[inline(always)]
    pub fn set(&mut self, value: T) {
        // SAFETY: as in `get`.
        unsafe { core::ptr::write_volatile(&mut self.0, value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_what_is_asked_and_no_more_than_there_is() {
        let mut out = [0u8; 8];
        assert_eq!(copy::<4, _, _>(b"abcd", 1, 2, &mut out, 3), 5);
        assert_eq!(&out, b"\0\0\0bc\0\0\0");
        assert_eq!(copy::<4, _, _>(b"abcd", 0, 9, &mut out, 0), 4);
        assert_eq!(&out, b"abcdc\0\0\0");
        assert_eq!(copy::<4, _, _>(b"abcd", 0, 0, &mut out, 7), 7);
        assert_eq!(copy::<2, _, _>(b"zyxw", 1, 9, &mut out, 6), 8);
        assert_eq!(&out, b"abcdc\0yx");
    }
}
