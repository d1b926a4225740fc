//! Any bytes as what a parser's buffer or a message holds: the scan that the kernel programs make of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_common::{
    head::{Head, TEXT_BYTES, scan},
    limits::HEAD_MAX,
};

fuzz_target!(|bytes: &[u8]| {
    let mut text = [b'\n'; TEXT_BYTES];
    let len = bytes.len().min(HEAD_MAX);
    text[..len].copy_from_slice(&bytes[..len]);
    for first_only in [true, false] {
        let head = scan(&text, len as u32, first_only);
        let Head { sw8, correlation, sw8_x, traceparent, .. } = head;
        for place in [sw8, correlation, sw8_x, traceparent] {
            // Absent is a length of 0, wherever it is said to begin.
            if place.len != 0 {
                let value = &text[place.at as usize..][..place.len as usize];
                assert!(place.at as usize + value.len() <= len && !value.contains(&b'\n'));
            }
        }
        if sw8.len != 0 {
            // The scan folds control characters too; no parser lets those through in a header's name.
            let name = text[head.sw8_line as usize..].iter().take(4).map(|byte| byte | 0x20);
            assert!(name.eq(*b"sw8:") && head.sw8_line < sw8.at);
        }
        assert!(head.request_line_end as usize <= len && head.end as usize <= len);
    }
});
