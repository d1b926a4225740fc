//! Base64 with the standard alphabet and padding, as `sw8` wants it.

use crate::array::{load, store};

static ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes that `len` bytes take.
#[inline(always)]
pub const fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

/// Encodes the first `len` bytes of `text` to the place `at` and returns the place after them.
///
/// The caller sees to it that `at` plus [`encoded_len`] stays within `out`: beyond its end, writing would start
/// over at its beginning.
#[inline(never)]
pub fn encode<const N: usize, const M: usize>(
    text: &[u8; N],
    len: u32,
    out: &mut [u8; M],
    at: usize,
) -> usize {
    let mut end = at;
    for group in 0..N.div_ceil(3) {
        let first = group * 3;
        if first as u32 >= len {
            break;
        }
        // Past the text there may be anything; it counts as zero.
        let a = load(text, first);
        let b = if first as u32 + 1 < len && first + 1 < N {
            load(text, first + 1)
        } else {
            0
        };
        let c = if first as u32 + 2 < len && first + 2 < N {
            load(text, first + 2)
        } else {
            0
        };
        let to = at + group * 4;
        store(out, to, load(&ALPHABET, (a >> 2) as usize));
        store(out, to + 1, load(&ALPHABET, ((a & 3) << 4 | b >> 4) as usize));
        store(out, to + 2, load(&ALPHABET, ((b & 15) << 2 | c >> 6) as usize));
        store(out, to + 3, load(&ALPHABET, (c & 63) as usize));
        end = to + 4;
    }
    let used = if len as usize > N { N as u32 } else { len };
    let rest = used % 3;
    if rest != 0 {
        store(out, end.wrapping_sub(1), b'=');
    }
    if rest == 1 {
        store(out, end.wrapping_sub(2), b'=');
    }
    end
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
                let end = encode(&text, len as u32, &mut out, at);
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
    fn a_length_beyond_the_text_counts_as_its_end() {
        let mut out = [0; 16];
        assert_eq!(encode(b"abcd", u32::MAX, &mut out, 0), 8);
        assert_eq!(&out[..8], b"YWJjZA==");
    }
}
