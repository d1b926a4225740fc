//! Finds our headers in the head of an HTTP/1 request: of one that came in, in the buffer its parser reads, or of
//! one that goes out, in the message.
//!
//! The kernel side runs the loop over the text itself, for it has to divide it for the verifier; what is made of
//! a line is here, and so is the same loop for the host.

use crate::{array::bound, limits::HEAD_MAX};

/// Bytes of a text: behind the head there is slack, into which a word at its end may reach.
pub const TEXT_BYTES: usize = HEAD_MAX + 64;

/// What a scan found. Places are offsets into the text; a length of 0 means absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// Where the line under the scan begins.
    line: u32,
    /// Where the request line begins.
    pub request_line: u32,
    /// Just behind the request line; 0 if none was seen.
    pub request_line_end: u32,
    /// Just behind the blank line that ends the head; 0 if it was not seen.
    pub end: u32,
    /// Where the `sw8` line begins.
    pub sw8_line: u32,
    pub sw8: Place,
    pub correlation: Place,
    pub sw8_x: Place,
    pub traceparent: Place,
}

/// Where a header's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    pub at: u32,
    pub len: u32,
}

const NOWHERE: Place = Place { at: 0, len: 0 };

impl Head {
    /// Nothing found yet.
    pub const EMPTY: Self = Self {
        line: 0,
        request_line: 0,
        request_line_end: 0,
        end: 0,
        sw8_line: 0,
        sw8: NOWHERE,
        correlation: NOWHERE,
        sw8_x: NOWHERE,
        traceparent: NOWHERE,
    };

    /// Forgets what was found.
    ///
    /// Word by word: of one assignment the compiler makes a loop over bytes, on the kernel's side.
    #[inline(always)]
    pub fn clear(&mut self) {
        const WORDS: usize = size_of::<Head>() / size_of::<u32>();
        let words = (&raw mut *self).cast::<u32>();
        for at in 0..WORDS {
            // SAFETY: it consists of so many words, and zero is nowhere.
            unsafe { words.add(at).write_volatile(0) };
        }
    }
}

/// Not 0 if any of the word's eight bytes is a newline: the classical test for a zero byte, after newlines became
/// zero.
#[inline(always)]
pub const fn newlines(word: u64) -> u64 {
    let xored = word ^ 0x0a0a_0a0a_0a0a_0a0a;
    xored.wrapping_sub(0x0101_0101_0101_0101) & !xored & 0x8080_8080_8080_8080
}

/// Has `line` take each line that ends among the eight bytes at `at`.
///
/// # Safety
///
/// As for [`line`].
#[inline(always)]
pub unsafe fn word(text: *const u8, at: u32, len: u32, mut line: impl FnMut(u32)) {
    let mut byte = 0;
    while byte < 8 {
        let newline = at.wrapping_add(byte) & (HEAD_MAX as u32 - 1);
        // SAFETY: masked to the text.
        if newline < len && unsafe { *text.add(newline as usize) } == b'\n' {
            line(newline);
        }
        byte += 1;
    }
}

/// What the kernel side finds in the first `len` bytes. `first_only` ends the scan with the first head, for a
/// message; otherwise the last head counts, for a buffer in which earlier requests may still stand.
pub fn scan(text: &[u8; TEXT_BYTES], len: u32, first_only: bool) -> Head {
    let mut head = Head::EMPTY;
    for (index, bytes) in text.as_chunks::<8>().0.iter().enumerate().take(HEAD_MAX / 8) {
        let at = index as u32 * 8;
        if at >= len {
            break;
        }
        if newlines(u64::from_ne_bytes(*bytes)) != 0 {
            // SAFETY: the array is as long as a text has to be.
            unsafe {
                word(text.as_ptr(), at, len, |newline| {
                    line(text.as_ptr(), newline, first_only, &raw mut head);
                });
            }
        }
        if first_only && head.end != 0 {
            break;
        }
    }
    head
}

/// Takes the line that ends at `newline`; with `first_only` none behind a head's end.
///
/// By pointers, so that the kernel side's map memory is read and written as it stands.
///
/// # Safety
///
/// `text` is the beginning of [`TEXT_BYTES`] readable bytes, `head` can be read and written.
#[inline(always)]
pub unsafe fn line(text: *const u8, newline: u32, first_only: bool, head: *mut Head) {
    const MASK: u32 = HEAD_MAX as u32 - 1;
    // SAFETY: every offset is masked to the text, behind which 64 bytes of slack lie. The compiler must not see what is
    // masked, or it would know that there is nothing to mask, which the verifier does not.
    unsafe {
        if first_only && (*head).end != 0 {
            return;
        }
        let start = (*head).line & MASK;
        (*head).line = newline + 1;
        let newline = newline & MASK;
        let mut end = newline;
        if end > start && *text.add((bound(end - 1) & MASK) as usize) == b'\r' {
            end -= 1;
        }
        let end = end & MASK;
        if end <= start {
            (*head).end = newline + 1;
            return;
        }
        let version = end.wrapping_sub(8) & MASK;
        if end >= 9 && *text.add((bound(end - 9) & MASK) as usize) == b' ' {
            let word = text.add(version as usize).cast::<u64>().read_unaligned();
            if word == u64::from_le_bytes(*b"HTTP/1.1") || word == u64::from_le_bytes(*b"HTTP/1.0") {
                (*head).clear();
                (*head).line = newline + 1;
                (*head).request_line = start;
                (*head).request_line_end = newline + 1;
                return;
            }
        }
        let name = text.add(start as usize);
        // Setting bit 5 folds letters to lower case and leaves digits, the dash and the colon as they are.
        let first = name.cast::<u32>().read_unaligned() | 0x2020_2020;
        if first == u32::from_le_bytes(*b"sw8:") {
            (*head).sw8_line = start;
            value(text, start + 4, end, &raw mut (*head).sw8);
        } else if first == u32::from_le_bytes(*b"sw8-") {
            let next = name.add(4).cast::<u64>().read_unaligned() | 0x2020_2020_2020_2020;
            if next == u64::from_le_bytes(*b"correlat") {
                value(text, start + 16, end, &raw mut (*head).correlation);
            } else if next & 0xffff == u64::from(u16::from_le_bytes(*b"x:")) {
                value(text, start + 6, end, &raw mut (*head).sw8_x);
            }
        } else if first == u32::from_le_bytes(*b"trac") {
            let next = name.add(4).cast::<u64>().read_unaligned() | 0x2020_2020_2020_2020;
            if next == u64::from_le_bytes(*b"eparent:") {
                value(text, start + 12, end, &raw mut (*head).traceparent);
            }
        }
    }
}

/// Notes the value in `[start, end)` without the spaces before it.
#[inline(always)]
unsafe fn value(text: *const u8, start: u32, end: u32, place: *mut Place) {
    const MASK: u32 = HEAD_MAX as u32 - 1;
    let mut at = start;
    // One space is what programs send; a few more are allowed for.
    let mut spaces = 0;
    while spaces < 4 {
        // SAFETY: masked to the text.
        let byte = unsafe { *text.add((at & MASK) as usize) };
        if at >= end || (byte != b' ' && byte != b'\t') {
            break;
        }
        at += 1;
        spaces += 1;
    }
    let len = end.saturating_sub(at);
    // SAFETY: the caller's place.
    unsafe { *place = Place { at, len } };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scanned {
        text: [u8; TEXT_BYTES],
        head: Head,
    }

    impl Scanned {
        fn get(&self, place: Place) -> &str {
            std::str::from_utf8(&self.text[place.at as usize..][..place.len as usize]).unwrap()
        }
    }

    fn scanned(text: &str, first_only: bool) -> Scanned {
        let mut buffer = [b'#'; TEXT_BYTES];
        buffer[..text.len()].copy_from_slice(text.as_bytes());
        Scanned {
            head: scan(&buffer, text.len() as u32, first_only),
            text: buffer,
        }
    }

    const REQUEST: &str = "GET /a HTTP/1.1\r\nHost: h\r\nSw8: 1-x\r\nsw8-correlation:a:b\r\nSW8-X:   0- \r\n\
        TraceParent:\t00-1\r\nsw8other: no\r\nX-Sw8: no\r\n\r\n";

    #[test]
    fn headers_are_found_in_any_case() {
        let scanned = scanned(REQUEST, true);
        let head = scanned.head;
        assert_eq!(scanned.get(head.sw8), "1-x");
        assert_eq!(scanned.get(head.correlation), "a:b");
        assert_eq!(scanned.get(head.sw8_x), "0- ");
        assert_eq!(scanned.get(head.traceparent), "00-1");
        assert_eq!(head.request_line_end as usize, "GET /a HTTP/1.1\r\n".len());
        assert_eq!(head.end as usize, REQUEST.len());
        assert_eq!(&REQUEST[head.sw8_line as usize..][..8], "Sw8: 1-x");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let head = scanned("POST / HTTP/1.0\nHost: h\n\n", true).head;
        let Head {
            sw8,
            correlation,
            sw8_x,
            traceparent,
            ..
        } = head;
        assert!(
            [sw8, correlation, sw8_x, traceparent]
                .iter()
                .all(|place| place.len == 0)
        );
        assert_eq!(head.request_line_end, 16);
        assert_eq!(
            scanned("no request line\r\nsw8: 1\r\n", true)
                .head
                .request_line_end,
            0
        );
        assert_eq!(scanned("GET / HTTP/1.1\r\nsw8:\r\n\r\n", true).head.sw8.len, 0);
        assert_eq!(scanned("", true).head, Head::EMPTY);
    }

    #[test]
    fn of_several_heads_the_first_or_the_last_counts() {
        let two = "GET /1 HTTP/1.1\r\nsw8: one\r\n\r\nGET /2 HTTP/1.1\r\nsw8: two\r\n\r\n";
        let first = scanned(two, true);
        assert_eq!(first.get(first.head.sw8), "one");
        let last = scanned(two, false);
        assert_eq!(last.get(last.head.sw8), "two");
        assert_eq!(last.head.request_line as usize, two.find("GET /2").unwrap());
        let without = scanned(
            "GET /1 HTTP/1.1\r\nsw8: one\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
            false,
        );
        assert_eq!(without.head.sw8.len, 0, "a header belongs to its own head");
    }

    #[test]
    fn cut_anywhere_it_finds_whole_lines_only() {
        for end in 0..REQUEST.len() {
            let scanned = scanned(&REQUEST[..end], true);
            let value = scanned.get(scanned.head.sw8);
            assert!(value.is_empty() || value == "1-x", "{end}: {value:?}");
            assert_eq!(scanned.head.end, 0);
        }
    }

    #[test]
    fn every_length_up_to_the_longest() {
        for padding in 0..HEAD_MAX {
            let line = "X: y\r\nsw8: 1-x\r\n\r\n";
            let text = format!("GET /{} HTTP/1.1\r\n{line}", "a".repeat(padding));
            if text.len() > HEAD_MAX {
                break;
            }
            let scanned = scanned(&text, true);
            assert_eq!(scanned.get(scanned.head.sw8), "1-x", "{padding}");
            assert_eq!(scanned.head.end as usize, text.len());
        }
    }
}
