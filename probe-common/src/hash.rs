//! Hashes: whether two header values are the same is told without keeping both.

use crate::array::bound;

/// The hash of nothing.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// `hash` with one more word: FNV-1a's step, for eight bytes at once.
#[inline(always)]
const fn step(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    // The product moves bits up only.
    hash ^ (hash >> 29)
}

/// Never 0, which stands for "no value".
#[inline(always)]
const fn finish(hash: u64) -> u64 {
    hash | (hash == 0) as u64
}

/// The hash of whole words, for keys of fixed size. Never 0.
#[inline(always)]
pub fn of_words<const N: usize>(words: &[u64; N]) -> u64 {
    let mut hash = EMPTY;
    for word in words {
        hash = step(hash, *word);
    }
    finish(hash)
}

/// The hash of the first `len` bytes of a text that begins at `text`. Never 0.
///
/// By words, since each turn of a loop is walked by the verifier.
///
/// # Safety
///
/// `text` is aligned to words, and `WORDS` of them can be read; `WORDS` is a power of two.
#[inline(never)]
pub unsafe fn of_text<const WORDS: usize>(text: *const u64, len: u32) -> u64 {
    const { assert!(WORDS.is_power_of_two()) };
    let len = bound(len);
    let full = bound(len / 8) as usize;
    // SAFETY: masked to the text, here and below.
    let load = |at: usize| unsafe { *text.add(at & (WORDS - 1)) };
    let mut hash = EMPTY;
    for at in 0..WORDS {
        if at >= full {
            break;
        }
        hash = step(hash, load(at));
    }
    let rest = len % 8;
    if rest != 0 {
        hash = step(hash, load(full) & (u64::MAX >> (64 - 8 * rest)));
    }
    // Texts that differ by zeros at their ends only.
    finish(step(hash, u64::from(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> u64 {
        let mut words = [0xffff_ffff_ffff_ffff_u64; 4];
        for (at, byte) in text.iter().enumerate() {
            let shift = at % 8 * 8;
            words[at / 8] = (words[at / 8] & !(0xff << shift)) | (u64::from(*byte) << shift);
        }
        // SAFETY: four words.
        unsafe { of_text::<4>(words.as_ptr(), text.len() as u32) }
    }

    #[test]
    fn every_word_and_place_counts() {
        let hashes = [[1, 2], [2, 1], [1, 3], [1 << 63, 2], [1, 2 << 62]].map(|words| of_words(&words));
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[index + 1..].contains(hash), "{hashes:x?}");
        }
    }

    #[test]
    fn every_byte_of_a_text_counts_and_none_behind_it() {
        let mut seen = std::collections::HashSet::new();
        for len in 0..=32 {
            let mut text = vec![b'a'; len];
            assert!(seen.insert(of(&text)), "{len}");
            for at in 0..len {
                for other in [b'b', 0] {
                    text[at] = other;
                    assert!(seen.insert(of(&text)), "{len}, {at}");
                }
                text[at] = b'a';
            }
        }
        assert!(!seen.contains(&0));
    }
}
