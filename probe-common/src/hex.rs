//! Lower-case hexadecimal.

use crate::array::{load, store};

/// The value of each digit; 0x80 for what is none. Upper case is none: `traceparent` forbids it.
pub(crate) static VALUES: [u8; 256] = values();

/// Set in the value of a byte that is no digit.
pub(crate) const NO_DIGIT: u8 = 0x80;

const fn values() -> [u8; 256] {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[digit(value) as usize] = value;
        }
        value += 1;
    }
    table
}

/// The digit of a value below 16.
#[inline(always)]
pub(crate) const fn digit(nibble: u8) -> u8 {
    // '0' to '9', then 39 places on 'a' to 'f'; without a branch.
    nibble + b'0' + ((nibble + 6) >> 4) * 39
}

/// Writes all of `bytes` as `2 * N` digits to the place `at` and returns the place after them.
#[inline(never)]
pub fn encode<const N: usize, const M: usize>(bytes: &[u8; N], out: &mut [u8; M], at: u32) -> u32 {
    for step in 0..N {
        let byte = load(bytes, step);
        store(out, at as usize + 2 * step, digit(byte >> 4));
        store(out, at as usize + 2 * step + 1, digit(byte & 15));
    }
    at + 2 * N as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_lower_case_at_its_place() {
        let mut out = [b'.'; 16];
        assert_eq!(encode(&[0x01, 0xaf, 0x9f, 0xfa], &mut out, 3), 11);
        assert_eq!(&out, b"...01af9ffa.....");
    }

    #[test]
    fn values_and_digits_agree() {
        for byte in 0..=255u8 {
            let expected = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => NO_DIGIT,
            };
            assert_eq!(VALUES[byte as usize], expected);
        }
    }
}
