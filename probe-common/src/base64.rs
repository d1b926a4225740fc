//! Base64 with the standard alphabet and padding, as `sw8` wants it.

use crate::array::{bound, load, pick, store};

static ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes that `len` bytes take.
#[inline(always)]
pub const fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

/// Encodes the first `len` bytes of `text`, at most `MAX`, to the place `at` and returns the place after them.
///
/// The caller sees to it that `at` plus [`encoded_len`] stays within `out`: beyond its end, writing would start
/// over at its beginning.
#[inline(never)]
pub fn encode<const MAX: usize, const N: usize, const M: usize>(
    text: &[u8; N],
    len: u32,
    out: &mut [u8; M],
    at: u32,
) -> u32 {
    let len = if len as usize > MAX { MAX as u32 } else { len };
    let full = bound(len / 3);
    for group in 0..(MAX / 3) as u32 {
        if group >= full {
            break;
        }
        let from = group as usize * 3;
        group_of_four(
            load(text, from),
            load(text, from + 1),
            load(text, from + 2),
            out,
            at.wrapping_add(group * 4) as usize,
        );
    }
    let rest = len - full * 3;
    let from = (full * 3) as usize;
    let to = at.wrapping_add(full * 4);
    if rest == 0 {
        return to;
    }
    if rest == 1 {
        group_of_four(load(text, from), 0, 0, out, to as usize);
        store(out, to as usize + 2, b'=');
    } else {
        group_of_four(load(text, from), load(text, from + 1), 0, out, to as usize);
    }
    store(out, to as usize + 3, b'=');
    to + 4
}

#[inline(always)]
fn group_of_four<const M: usize>(a: u8, b: u8, c: u8, out: &mut [u8; M], to: usize) {
    store(out, to, load(&ALPHABET, (a >> 2) as usize));
    store(out, to + 1, pick(&ALPHABET, ((a & 3) << 4 | b >> 4) as usize));
    store(out, to + 2, pick(&ALPHABET, ((b & 15) << 2 | c >> 6) as usize));
    store(out, to + 3, load(&ALPHABET, (c & 63) as usize));
}

#[cfg(test)]
mod tests {
    use ::base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn agrees_with_the_crate_at_every_length() {
        let mut text = [0u8; 64];
        for (at, byte) in text.iter_mut().enumerate() {
            *byte = (at as u8).wrapping_mul(167) ^ 0xa5;
        }
        for len in 0..=64 {
            for at in [0, 1, 30] {
                let mut out = [b'.'; 128];
                let end = encode::<64, _, _>(&text, len as u32, &mut out, at as u32) as usize;
                let expected = STANDARD.encode(&text[..len]);
                assert_eq!(end, at + encoded_len(len));
                assert_eq!(std::str::from_utf8(&out[at..end]).unwrap(), expected);
                assert!(
                    out[..at].iter().chain(&out[end..]).all(|byte| *byte == b'.'),
                    "nothing else is written"
                );
            }
        }
    }

    #[test]
    fn a_length_beyond_the_bound_counts_as_the_bound() {
        let mut out = [0; 16];
        assert_eq!(encode::<4, _, _>(b"abcd", u32::MAX, &mut out, 0), 8);
        assert_eq!(&out[..8], b"YWJjZA==");
    }
}
