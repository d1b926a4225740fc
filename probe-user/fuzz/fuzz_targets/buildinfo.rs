//! Any bytes after the magic of Go's build information.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use probe_user::discover::go::GoBinary;
use probe_user_fuzz::program;

fuzz_target!(|bytes: &[u8]| {
    let mut data = b"\xff Go buildinf:\x08".to_vec();
    data.extend(bytes);
    let sections: &[(&str, u64, u64)] = &[(".go.buildinfo", 0, data.len() as u64)];
    // With sections and without: the second has to be searched for.
    for sections in [sections, &[]] {
        let _ = GoBinary::from_bytes(Path::new("fuzz"), program(&data, sections));
    }
});
