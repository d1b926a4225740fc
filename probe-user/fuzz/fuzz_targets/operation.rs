//! Any bytes as the method, pattern and path of a request: the name that the kernel programs make of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_common::{limits::OPERATION_MAX, operation};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let (path, pattern, method) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let names = [
        operation::name(method, pattern, path, false),
        operation::name(method, pattern, path, true),
        operation::rpc_name(path),
    ];
    for (rpc, name) in names.iter().enumerate() {
        let text = &name.bytes[..name.len()];
        assert!(text.len() <= OPERATION_MAX && (rpc == 2 || !text.is_empty()));
        assert!(text.iter().all(|byte| (0x20..0x7f).contains(byte)), "{text:?}");
    }
    // Once folded, a path stays as it is: the same name comes out of the name.
    let once = operation::name(b"GET", b"", path, false);
    let folded = &once.bytes[..once.len()];
    let path = folded.strip_prefix(b"GET:").expect("the method stands first");
    if once.len() < OPERATION_MAX && !path.contains(&b'%') && !path.contains(&b'{') {
        let twice = operation::name(b"GET", b"", path, false);
        assert_eq!(&twice.bytes[..twice.len()], folded);
    }
});
