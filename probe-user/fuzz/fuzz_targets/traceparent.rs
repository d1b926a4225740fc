//! Any bytes as the value of a `traceparent` header; what is understood is written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_common::{
    context::traceparent::{Traceparent, parse, write},
    limits::{TRACEPARENT_BYTES, TRACEPARENT_LEN},
};

fuzz_target!(|bytes: &[u8]| {
    let mut value = [0; TRACEPARENT_BYTES];
    let kept = bytes.len().min(TRACEPARENT_BYTES);
    value[..kept].copy_from_slice(&bytes[..kept]);
    let mut traceparent = Traceparent::default();
    if !parse(&value, bytes.len() as u32, &mut traceparent) {
        return;
    }
    let mut written = [0; 64];
    let end = write(&traceparent.trace_id, &traceparent.parent_id, traceparent.flags, &mut written, 0) as usize;
    assert_eq!(end, TRACEPARENT_LEN);
    // Behind the version, which is written as 00.
    assert_eq!(&written[2..end], &bytes[2..TRACEPARENT_LEN]);
    assert!(traceparent.trace_id != [0; 16] && traceparent.parent_id != [0; 8] && traceparent.version != 0xff);
});
