//! Any bytes as Go's type data: by an odd first byte as the fields of a struct whose descriptor is sound, else as all of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::discover::{
    elf::Elf,
    layout::{Layouts, Told},
};
use probe_user_fuzz::{DATA_ADDRESS, program};

/// Where the parts of the sound descriptor are.
const NAME: usize = 8;
const PACKAGE: usize = 32;
const DESCRIPTOR: usize = 48;
const FIELDS: usize = 136;

fuzz_target!(|bytes: &[u8]| {
    let Some(([kind, count, low, high], rest)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let size = u64::from(u16::from_le_bytes([*low, *high]));
    let (data, names) = if kind % 2 == 1 {
        described(*count, size, rest)
    } else {
        (rest.to_vec(), Vec::new())
    };
    let Ok(elf) = Elf::from_bytes(program(&data, &[])) else { return };
    let types = DATA_ADDRESS..DATA_ADDRESS + data.len() as u64;
    let layouts = Layouts::within(&elf, types, &["net/http.Request", "a/http.Request", "b.C"]);
    for name in &names {
        if let Told::At(offset) = layouts.field(("net/http.Request", name)) {
            assert!(offset <= size, "a field lies within its struct");
        }
    }
});

/// `http.Request` of `net/http`, with fields of which four bytes each say the name's place and the offset; and the names.
fn described(count: u8, size: u64, bytes: &[u8]) -> (Vec<u8>, Vec<String>) {
    let mut data = vec![0; FIELDS];
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    put(NAME, b"\x01\x0d*http.Request");
    put(PACKAGE, b"\0\x08net/http");
    put(DESCRIPTOR, &size.to_le_bytes());
    put(DESCRIPTOR + 20, &[7, 8, 0, 25]);
    put(DESCRIPTOR + 40, &(NAME as u32).to_le_bytes());
    put(DESCRIPTOR + 56, &(DATA_ADDRESS + FIELDS as u64).to_le_bytes());
    put(DESCRIPTOR + 64, &u64::from(count).to_le_bytes());
    put(DESCRIPTOR + 80, &(PACKAGE as u32).to_le_bytes());
    let fields = bytes.as_chunks::<4>().0;
    let pool = FIELDS + fields.len() * 24;
    let mut names = Vec::new();
    for [a, b, c, d] in fields {
        let place = usize::from(u16::from_le_bytes([*a, *b])) % bytes.len();
        let offset = u64::from(u16::from_le_bytes([*c, *d]));
        let name = DATA_ADDRESS + (pool + place) as u64;
        data.extend([name, 0, offset].map(u64::to_le_bytes).concat());
        if let Some([_, length, text @ ..]) = bytes.get(place..)
            && let Some(text) = text.get(..usize::from(*length))
        {
            names.extend(str::from_utf8(text).map(str::to_owned));
        }
    }
    data.extend(bytes);
    (data, names)
}
