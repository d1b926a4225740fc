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
    scratch.head.clear();
    let words = scratch.text.as_ptr().cast::<u64>();
    const { assert!(core::mem::offset_of!(Scratch, text) % 8 == 0) };
    let mut index: u32 = 0;
    while index < (HEAD_MAX / 8) as u32 {
        let at = index * 8;
        if at >= len {
            break;
        }
        // SAFETY: below `HEAD_MAX` by the loop's bound, and behind that there is slack.
        let block = unsafe {
            let words = words.add(index as usize);
            [*words, *words.add(1), *words.add(2), *words.add(3)]
        };
        let [a, b, c, d] = block.map(head::newlines);
        if a | b | c | d != 0 && scan_block(slot, at, len, first_only) != 0 {
            break;
        }
        index += BLOCK_WORDS;
    }
    0
}

/// Words that are looked at at once.
const BLOCK_WORDS: u32 = 4;

/// Takes the lines that end within the block at `at`; whether that was enough.
///
/// A global function as well, as the two below are: walked once and not for each block of the head.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn scan_block(slot: u32, at: u32, len: u32, first_only: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let text = scratch.text.as_ptr();
    let mut index = 0;
    while index < BLOCK_WORDS {
        let at = at.wrapping_add(index * 8) & (HEAD_MAX as u32 - 8);
        // SAFETY: masked to the text, and a whole number of words.
        let word = unsafe { *text.add(at as usize).cast::<u64>() };
        if head::newlines(word) != 0 {
            scan_word(slot, at, len, first_only);
        }
        index += 1;
    }
    u32::from(first_only != 0 && scratch.head.end != 0)
}

/// Takes the lines that end within the word at `at`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn scan_word(slot: u32, at: u32, len: u32, first_only: u32) -> u32 {
    if let Some(scratch) = scratch::taken(slot) {
        // SAFETY: the scratch's text is as long as a text has to be.
        unsafe {
            head::word(scratch.text.as_ptr(), at, len, |newline| {
                scan_line(slot, newline, first_only);
            });
        }
    }
    0
}

/// Takes the line that ends at `newline`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn scan_line(slot: u32, newline: u32, first_only: u32) -> u32 {
    if let Some(scratch) = scratch::taken(slot) {
        // SAFETY: as above.
        unsafe {
            head::line(
                scratch.text.as_ptr(),
                newline,
                first_only != 0,
                &raw mut scratch.head,
            );
        }
    }
    0
}
