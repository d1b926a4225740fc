//! Any bytes as DWARF: by an odd first byte as the entries of a unit of Go's package `runtime`, else as everything, of
//! which the second byte says how much is abbreviations.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::{discover::elf::Elf, instrument::offset::dwarf};
use probe_user_fuzz::program;

/// Unit (name, language), struct (name), member (name, place), typedef (name).
const ABBREVIATIONS: &[u8] =
    b"\x01\x11\x01\x03\x08\x13\x0b\0\0\x02\x13\x01\x03\x08\0\0\x03\x0d\0\x03\x08\x38\x0f\0\0\
    \x04\x16\0\x03\x08\0\0\0";

fuzz_target!(|bytes: &[u8]| {
    let Some(([kind, share], rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let (data, abbreviations) = if kind % 2 == 1 {
        let unit = b"\x04\0\0\0\0\0\x08\x01runtime\0\x16";
        let length = (unit.len() + rest.len()) as u32;
        let parts = [ABBREVIATIONS, &length.to_le_bytes(), unit, rest];
        (parts.concat(), ABBREVIATIONS.len() as u64)
    } else {
        (rest.to_vec(), rest.len() as u64 * u64::from(*share) / 256)
    };
    let left = data.len() as u64 - abbreviations;
    let sections = [
        (".debug_abbrev", 0, abbreviations),
        (".debug_info", abbreviations, left),
    ];
    if let Ok(elf) = Elf::from_bytes(program(&data, &sections)) {
        let _ = dwarf::find(&elf, &[("runtime.g", "goid"), ("a", "b")]);
    }
});
