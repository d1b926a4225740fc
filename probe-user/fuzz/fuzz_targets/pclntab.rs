//! Any bytes as Go's function table: by an odd first byte with a header that fits them, else with theirs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::discover::{elf::Elf, pclntab::Pclntab};
use probe_user_fuzz::{TEXT_ADDRESS, program};

const HEADER_BYTES: u64 = 72;

fuzz_target!(|bytes: &[u8]| {
    let Some(([kind, functions, names], rest)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let mut data = b"\xf1\xff\xff\xff\0\0\x01\x08".to_vec();
    if kind % 2 == 1 {
        let table = HEADER_BYTES + u64::from(*names).min(rest.len() as u64);
        let header = [
            u64::from(*functions),
            0,
            0,
            HEADER_BYTES,
            table,
            table,
            table,
            table,
        ];
        data.extend(header.map(u64::to_le_bytes).concat());
    }
    data.extend(rest);
    let sections: &[(&str, u64, u64)] = &[(".gopclntab", 0, data.len() as u64)];
    for sections in [sections, &[]] {
        let Ok(elf) = Elf::from_bytes(program(&data, sections)) else {
            continue;
        };
        let Ok(table) = Pclntab::find(&elf) else { continue };
        let _ = table.look_up(&elf, TEXT_ADDRESS, &["main.main", "a", ""], &["b."]);
    }
});
