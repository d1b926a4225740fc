//! FNV-1a, 64 bits: tells whether two header values are the same without keeping both.

use crate::array::{bound, load};

/// The hash of nothing.
pub const FNV1A64_EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// `hash` with one more byte; for bytes that do not lie in an array.
#[inline(always)]
pub const fn fnv1a64_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The hash of the first `len` bytes. Never 0, which stands for "no value".
#[inline(never)]
pub fn fnv1a64<const N: usize>(bytes: &[u8; N], len: u32) -> u64 {
    let len = bound(len);
    let mut hash = FNV1A64_EMPTY;
    for at in 0..N {
        if at as u32 >= len {
            break;
        }
        hash = fnv1a64_step(hash, load(bytes, at));
    }
    fnv1a64_finish(hash)
}

/// What [`fnv1a64`] returns for bytes hashed step by step.
#[inline(always)]
pub const fn fnv1a64_finish(hash: u64) -> u64 {
    hash | (hash == 0) as u64
}

/// The hash of whole words, for keys of fixed size. Never 0.
#[inline(always)]
pub fn of_words<const N: usize>(words: &[u64; N]) -> u64 {
    let mut hash = FNV1A64_EMPTY;
    for word in words {
        hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        // The product moves bits up only.
        hash ^= hash >> 29;
    }
    fnv1a64_finish(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // From the authors' page of test vectors.
        assert_eq!(fnv1a64(b"........", 0), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"a.......", 1), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a64(b"foobar..", 6), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_word_and_place_counts() {
        let hashes = [[1, 2], [2, 1], [1, 3], [1 << 63, 2], [1, 2 << 62]].map(|words| of_words(&words));
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[index + 1..].contains(hash), "{hashes:x?}");
        }
    }

    #[test]
    fn steps_give_the_same() {
        let stepped = b"foobar"
            .iter()
            .fold(FNV1A64_EMPTY, |hash, byte| fnv1a64_step(hash, *byte));
        assert_eq!(fnv1a64_finish(stepped), fnv1a64(b"foobar!!", 6));
        assert_eq!(fnv1a64_finish(0), 1);
    }
}
