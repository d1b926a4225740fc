//! The loop over the head of an HTTP/1 request, divided for the verifier; what is made of a line is in
//! [`probe_common::head`].
//!
//! The scan keeps what it learns in map memory. Held in registers, each newline found or not would double the
//! paths that the verifier follows.

pub(crate) use probe_common::head::{Head, Place};
use probe_common::{head, limits::HEAD_MAX};

use crate::scratch::{self, Scratch};

/// Scans the first `len` bytes of the scratch's text. `first_only` ends the scan with the first head, for a
/// message; otherwise the last head counts, for a buffer in which earlier requests may still stand.
#[inline(always)]
pub(crate) fn scan(scratch: &mut Scratch, len: u32, first_only: bool) {
    scan_text(scratch.slot, len, u32::from(first_only));
}

/// A global function: the verifier walks it once by itself and not for each caller. Hence the plain numbers as
/// arguments, and the C symbol.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn scan_text(slot: u32, len: u32, first_only: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    scratch.head = Head::EMPTY;
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
        if head::has_newline(word) && scan_word(slot, at, len) != 0 && first_only != 0 {
            break;
        }
        word_index += 1;
    }
    0
}

/// Looks at each newline of the word at `at`; whether a head ended in it.
///
/// A global function as well: walked once and not for each word of the head.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn scan_word(slot: u32, at: u32, len: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    // SAFETY: the scratch's text is as long as a text has to be.
    let ended = unsafe { head::word(scratch.text.as_ptr(), at, len, &raw mut scratch.head) };
    u32::from(ended)
}
