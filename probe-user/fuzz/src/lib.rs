//! ELF files around the bytes under test.

/// Where [`program`] puts its data.
pub const DATA_ADDRESS: u64 = 0x50_0000;
/// Where [`program`] has code: enough for every function to lie in it.
pub const TEXT_ADDRESS: u64 = 0x40_0000;

const HEADER_BYTES: u64 = 64;
const SEGMENT_BYTES: u64 = 56;
const SECTION_BYTES: u64 = 64;

/// A program for x86-64 whose one writable segment has these bytes, and whose sections are parts of them by name,
/// start and length.
pub fn program(data: &[u8], sections: &[(&str, u64, u64)]) -> Vec<u8> {
    let data_offset = HEADER_BYTES + 2 * SEGMENT_BYTES;
    let names_offset = data_offset + data.len() as u64;
    let mut names = vec![0];
    let mut starts = Vec::new();
    for name in sections.iter().map(|(name, ..)| *name).chain([".shstrtab"]) {
        starts.push(names.len() as u32);
        names.extend(name.as_bytes());
        names.push(0);
    }
    let sections_offset = names_offset + names.len() as u64;
    let count = if sections.is_empty() {
        0
    } else {
        sections.len() as u16 + 1
    };

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend(
        [
            TEXT_ADDRESS,
            HEADER_BYTES,
            if count == 0 { 0 } else { sections_offset },
        ]
        .map(u64::to_le_bytes)
        .concat(),
    );
    file.extend(0_u32.to_le_bytes());
    file.extend(
        [64, 56, 2, 64, count, count.saturating_sub(1)]
            .map(u16::to_le_bytes)
            .concat(),
    );
    // The code is the file's own first bytes; the data may be written.
    for (flags, offset, address, size) in [
        (5_u32, 0, TEXT_ADDRESS, data_offset),
        (6, data_offset, DATA_ADDRESS, data.len() as u64),
    ] {
        file.extend(1_u32.to_le_bytes());
        file.extend(flags.to_le_bytes());
        file.extend(
            [offset, address, address, size, size, 0x1000]
                .map(u64::to_le_bytes)
                .concat(),
        );
    }
    file.extend(data);
    file.extend(&names);
    let section = |name: u32, address: u64, offset: u64, size: u64| {
        let mut header = name.to_le_bytes().to_vec();
        header.extend(1_u32.to_le_bytes());
        header.extend([0, address, offset, size, 0, 1, 0].map(u64::to_le_bytes).concat());
        header.resize(SECTION_BYTES as usize, 0);
        header
    };
    for ((_, start, size), name) in sections.iter().zip(&starts) {
        file.extend(section(*name, DATA_ADDRESS + start, data_offset + start, *size));
    }
    if let (Some(name), false) = (starts.last(), sections.is_empty()) {
        file.extend(section(*name, 0, names_offset, names.len() as u64));
    }
    file
}
