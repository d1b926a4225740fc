//! Any bytes as an ELF file, and everything that is asked of one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::discover::elf::Elf;

fuzz_target!(|bytes: &[u8]| {
    let Ok(elf) = Elf::from_bytes(bytes.to_vec()) else {
        return;
    };
    let _ = elf.note(b"Go", 4);
    let _ = elf.pointers_to(0x40_0000, 16);
    for segment in elf.segments.iter().take(4) {
        let mut buffer = [0; 64];
        let _ = elf.read_relocated(segment.address, &mut buffer);
        let _ = elf.file_offset(segment.address.wrapping_add(8));
    }
    for section in elf.sections.iter().take(8) {
        let _ = elf.bytes(section.offset, section.size_bytes, "a section");
    }
});
