//! Any bytes as the files of `/proc`: a process names itself, its paths and its environment as it likes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::discover::{elf::Segment, process::parse, types};

fuzz_target!(|bytes: &[u8]| {
    for (name, value) in parse::environment(bytes, &["SW_AGENT_NAME", "A", "HOSTNAME"]) {
        assert!(!value.is_empty() && ["SW_AGENT_NAME", "A", "HOSTNAME"].contains(&name));
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = parse::stat(&text);
    for line in text.lines() {
        let _ = parse::listener(line);
    }
    // Two segments, of which one is as odd as can be.
    let code = |address, offset| Segment {
        address,
        offset,
        file_bytes: u64::MAX,
        memory_bytes: u64::MAX,
        executable: true,
        writable: false,
    };
    let segments = [code(0x40_1000, 0x1000), code(u64::MAX, u64::MAX)];
    let _ = types::bias_from_maps(&text, "/a", &segments);
});
