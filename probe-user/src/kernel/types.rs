//! Where the kernel's own structs have a field, by the types that it tells of itself (BTF).
//!
//! Read in one pass and thrown away: a library would keep a hundred thousand types for the two numbers that are wanted.

use std::fs;

/// Where the running kernel tells its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
const STRUCT: u32 = 4;

/// Where `strukt` of the running kernel has these fields of its own, in bytes. Nothing where the kernel does not tell, or
/// one of them is not in it.
pub(super) fn fields<const N: usize>(strukt: &str, fields: [&str; N]) -> Option<[u32; N]> {
    find(&fs::read(VMLINUX).ok()?, strukt, fields)
}

fn find<const N: usize>(types: &[u8], strukt: &str, fields: [&str; N]) -> Option<[u32; N]> {
    let magic = types.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
    if magic != Some(MAGIC) {
        return None;
    }
    let header: [u32; 5] = numbers(types, 4)?;
    let [header_bytes, types_at, types_bytes, names_at, names_bytes] = header.map(|number| number as usize);
    let section = |at: usize, bytes: usize| {
        let from = header_bytes.checked_add(at)?;
        types.get(from..from.checked_add(bytes)?)
    };
    let (types, names) = (section(types_at, types_bytes)?, section(names_at, names_bytes)?);
    let is = |name: u32, wanted: &str| {
        let rest = names
            .get(name as usize..)
            .and_then(|rest| rest.strip_prefix(wanted.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    };
    let mut at = 0;
    while at < types.len() {
        let [name, info, _size_or_type] = numbers(types, at)?;
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        at += TYPE_BYTES;
        if kind == STRUCT && is(name, strukt) {
            // With bit fields among its members, the size of each is in the upper eight bits.
            let bits = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
            let mut found = [None; N];
            for member in 0..count {
                let [name, _type, offset] = numbers(types, at + member * 12)?;
                for (field, found) in fields.iter().zip(&mut found) {
                    if is(name, field) {
                        *found = Some((offset & bits) / 8);
                    }
                }
            }
            let all: Vec<u32> = found.into_iter().flatten().collect();
            return all.try_into().ok();
        }
        at += match kind {
            // Integers, variables, tags of declarations.
            1 | 14 | 17 => 4,
            // Arrays.
            3 => 12,
            // Structs, unions, sections, enumerations of 64 bits.
            4 | 5 | 15 | 19 => count * 12,
            // Enumerations, prototypes of functions.
            6 | 13 => count * 8,
            // What refers to another type, forward declarations, floats.
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None,
        };
    }
    None
}

fn numbers<const N: usize>(bytes: &[u8], at: usize) -> Option<[u32; N]> {
    let bytes = bytes.get(at..at.checked_add(N * 4)?)?;
    let mut numbers = [0; N];
    for (number, word) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = u32::from_ne_bytes(*word);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_the_fields_of_a_socket() {
        let Some([queued, limit]) = fields("sock", ["sk_wmem_queued", "sk_sndbuf"]) else {
            assert!(!fs::exists(VMLINUX).unwrap());
            return;
        };
        assert!(
            queued != limit && queued % 4 == 0 && limit % 4 == 0,
            "{queued} {limit}"
        );
        // Behind what all sockets begin with, and within what they are.
        assert!(
            (64..2048).contains(&queued) && (64..2048).contains(&limit),
            "{queued} {limit}"
        );
        assert_eq!(fields("sock", ["sk_wmem_queued", "no_such_field"]), None);
        assert_eq!(fields("no_such_struct", ["sk_sndbuf"]), None);
    }

    #[test]
    fn what_is_cut_off_or_nothing_is_refused() {
        assert_eq!(find(b"", "sock", ["sk_sndbuf"]), None);
        assert_eq!(find(&[0; 64], "sock", ["sk_sndbuf"]), None);
        let Ok(whole) = fs::read(VMLINUX) else { return };
        for bytes in [1, 8, 24, 1_000, whole.len() / 2] {
            assert_eq!(
                find(whole.get(..bytes).unwrap(), "sock", ["sk_sndbuf"]),
                None,
                "{bytes}"
            );
        }
    }
}
