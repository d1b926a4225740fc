//! Any bytes as DWARF: the first says how much of them is abbreviations.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::{discover::elf::Elf, instrument::offset::dwarf};
use probe_user_fuzz::program;

fuzz_target!(|bytes: &[u8]| {
    let Some((share, data)) = bytes.split_first() else { return };
    let total = data.len() as u64;
    let abbreviations = total * u64::from(*share) / 256;
    let sections =
        [(".debug_abbrev", 0, abbreviations), (".debug_info", abbreviations, total - abbreviations)];
    if let Ok(elf) = Elf::from_bytes(program(data, &sections)) {
        let _ = dwarf::find(&elf, &[("runtime.g", "goid"), ("a", "b")]);
    }
});
