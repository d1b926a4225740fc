//! Any bytes after the magic of Go's function table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::discover::{elf::Elf, pclntab::Pclntab};
use probe_user_fuzz::{TEXT_ADDRESS, program};

fuzz_target!(|bytes: &[u8]| {
    let mut data = b"\xf1\xff\xff\xff\0\0\x01\x08".to_vec();
    data.extend(bytes);
    let sections: &[(&str, u64, u64)] = &[(".gopclntab", 0, data.len() as u64)];
    for sections in [sections, &[]] {
        let Ok(elf) = Elf::from_bytes(program(&data, sections)) else { continue };
        let Ok(table) = Pclntab::find(&elf) else { continue };
        let _ = table.look_up(&elf, TEXT_ADDRESS, &["main.main", "a", ""], &["b."]);
    }
});
