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

/// Copies `len` bytes that start at `from` to the place `at` and returns the place after them. What would pass
/// the end of `out` is not copied.
#[inline(never)]
pub fn copy<const N: usize, const M: usize>(
    text: &[u8; N],
    from: usize,
    len: usize,
    out: &mut [u8; M],
    at: usize,
) -> usize {
    for step in 0..N {
        if step >= len || at + step >= M {
            return at + step;
        }
        store(out, at + step, load(text, from + step));
    }
    at + N
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
    fn copies_up_to_either_end() {
        let mut out = [0u8; 8];
        assert_eq!(copy(b"abcd", 1, 2, &mut out, 3), 5);
        assert_eq!(&out, b"\0\0\0bc\0\0\0");
        assert_eq!(copy(b"abcd", 0, 4, &mut out, 6), 8, "no room for the last two");
        assert_eq!(&out, b"\0\0\0bc\0ab");
        assert_eq!(copy(b"abcd", 0, 9, &mut out, 0), 4, "no more than there is");
        assert_eq!(&out, b"abcdc\0ab");
    }
}
