//! Any bytes as the value of an `sw8` header: what the kernel side continues, user space must understand, and the
//! other way round.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_common::{
    context::sw8::{Sw8Places, scan},
    limits::SW8_MAX,
    propagation::Prepared,
};
use probe_user::trace::{Sw8, Sw8X};

fuzz_target!(|bytes: &[u8]| {
    let mut value = [0; SW8_MAX];
    let kept = bytes.len().min(SW8_MAX);
    value[..kept].copy_from_slice(&bytes[..kept]);
    let mut places = Sw8Places::default();
    let accepted = scan(&value, bytes.len() as u32, &mut places);
    let decoded = Sw8::decode(bytes);
    if bytes.len() <= SW8_MAX {
        assert_eq!(accepted, decoded.is_some());
    } else {
        assert!(!accepted);
    }
    if accepted {
        let mut prepared = Prepared::EMPTY;
        prepared.push_trace_id_of(&value, &places);
        let copied = &prepared.lines[..prepared.len as usize];
        assert_eq!(Some(copied), bytes.split(|byte| *byte == b'-').nth(1), "it is handed on as it came");
        assert!(decoded.is_some_and(|sw8| sw8.parent_span_id >= 0 && !sw8.trace_id.is_empty()));
    }
    let _ = Sw8X::decode(bytes);
});
