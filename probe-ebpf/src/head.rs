//! Finds our headers in the head of an HTTP/1 request: of one that came in, in the buffer its parser reads, or of
//! one that goes out, in the message.
//!
//! The scan keeps what it learns in map memory. Held in registers, each newline found or not would double the
//! paths that the verifier follows.

use probe_common::limits::HEAD_MAX;

use crate::scratch::{self, Scratch};

/// What a scan found. Places are offsets into the text; a length of 0 means absent.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Head {
    /// Where the line under the scan begins.
    line: u32,
    /// Where the request line begins.
    pub(crate) request_line: u32,
    /// Just behind the request line; 0 if none was seen.
    pub(crate) request_line_end: u32,
    /// Just behind the blank line that ends the head; 0 if it was not seen.
    pub(crate) end: u32,
    /// Where the `sw8` line begins.
    pub(crate) sw8_line: u32,
    pub(crate) sw8: Place,
    pub(crate) correlation: Place,
    pub(crate) sw8_x: Place,
    pub(crate) traceparent: Place,
}

/// Where a header's value is.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Place {
    pub(crate) at: u32,
    pub(crate) len: u32,
}

const NOWHERE: Place = Place { at: 0, len: 0 };

impl Head {
    const EMPTY: Self = Self {
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
}

/// Scans the first `len` bytes of the scratch's text. `first_only` ends the scan with the first head, for a
/// message; otherwise the last head counts, for a buffer in which earlier requests may still stand.
#[inline(always)]
pub(crate) fn scan(scratch: &mut Scratch, len: u32, first_only: bool) {
    scratch.head = Head::EMPTY;
    let slot = scratch.slot;
    let mut word_index: u32 = 0;
    while word_index < (HEAD_MAX / 8) as u32 {
        let at = word_index * 8;
        if at >= len {
            break;
        }
        // SAFETY: below `HEAD_MAX` by the loop's bound.
        let word = unsafe {
            scratch
                .text
                .as_ptr()
                .add(at as usize)
                .cast::<u64>()
                .read_unaligned()
        };
        // Which bytes are a newline: the classical test for a zero byte, after newlines became zero.
        let xored = word ^ 0x0a0a_0a0a_0a0a_0a0a;
        if xored.wrapping_sub(0x0101_0101_0101_0101) & !xored & 0x8080_8080_8080_8080 != 0
            && scan_word(slot, at, len) != 0
            && first_only
        {
            break;
        }
        word_index += 1;
    }
}

/// Looks at each newline of the word at `at`; whether a head ended in it.
///
/// A global function: the verifier walks it once by itself and not once for each word of the head. Hence the
/// plain numbers as arguments, and the C symbol.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn scan_word(slot: u32, at: u32, len: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let text = scratch.text.as_ptr();
    let mut ended = false;
    let mut byte = 0;
    while byte < 8 {
        let newline = at.wrapping_add(byte) & (HEAD_MAX as u32 - 1);
        // SAFETY: masked to the text.
        unsafe {
            if newline < len && *text.add(newline as usize) == b'\n' {
                ended |= line(text, newline, &raw mut scratch.head);
            }
        }
        byte += 1;
    }
    u32::from(ended)
}

/// Takes the line that ends at `newline`; whether it was the blank one that ends a head.
#[inline(never)]
unsafe fn line(text: *const u8, newline: u32, head: *mut Head) -> bool {
    const MASK: u32 = HEAD_MAX as u32 - 1;
    // SAFETY: every offset is masked to the text, behind which 64 bytes of slack lie.
    unsafe {
        let start = (*head).line & MASK;
        (*head).line = newline + 1;
        let newline = newline & MASK;
        let mut end = newline;
        if end > start && *text.add(((end - 1) & MASK) as usize) == b'\r' {
            end -= 1;
        }
        let end = end & MASK;
        if end <= start {
            (*head).end = newline + 1;
            return true;
        }
        let version = end.wrapping_sub(8) & MASK;
        if end >= 9 && *text.add(((end - 9) & MASK) as usize) == b' ' {
            let word = text.add(version as usize).cast::<u64>().read_unaligned();
            if word == u64::from_le_bytes(*b"HTTP/1.1") || word == u64::from_le_bytes(*b"HTTP/1.0") {
                *head = Head::EMPTY;
                (*head).line = newline + 1;
                (*head).request_line = start;
                (*head).request_line_end = newline + 1;
                return false;
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
        false
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
    let len = if end > at { end - at } else { 0 };
    // SAFETY: the caller's place.
    unsafe { *place = Place { at, len } };
}
