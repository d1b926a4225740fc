//! Whether the headers of a request hold `sw8`: the one question that is asked of a Go map.
//!
//! Its keys are looked at one by one, for the hash of one would take the process's own seed and function. Go has had two
//! kinds of maps; both keep eight keys and values together, behind eight bytes that tell which are taken, and all that
//! is looked for is a string of three bytes among them. So it does not matter in which order keys and values lie.

use probe_common::field::{GoField, Offsets};

use crate::{
    memory::{self, Window},
    scratch::{self, Scratch},
};

/// Bytes of a group's keys and values: a string and a slice, eight times.
const GROUP_BYTES: u64 = 8 * 40;
/// Bytes before them.
const CONTROL_BYTES: u64 = 8;
/// Groups that are looked at: room for 56 headers.
const GROUPS_MAX: u64 = 8;

/// Whether the `http.Header` at `header` has `sw8`, in whatever case; nothing if it cannot be told.
#[inline(always)]
pub(crate) fn has_sw8(header: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<bool> {
    if header == 0 {
        return Some(false);
    }
    // In both kinds the number of entries comes first.
    if memory::read::<u64>(header)? == 0 {
        return Some(false);
    }
    match offsets.get(GoField::MapDirectory) {
        Some(directory_at) => in_directory(header, directory_at, offsets, scratch),
        None => in_buckets(header, offsets, scratch),
    }
}

/// Since Go 1.24: one group, or tables of groups.
#[inline(always)]
fn in_directory(map: u64, directory_at: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<bool> {
    let directory: u64 = memory::read(map + directory_at)?;
    let tables: u64 = memory::read(map + offsets.get(GoField::MapDirectoryLen)?)?;
    let (groups, count) = match tables {
        0 => (directory, 1),
        1 => {
            let table: u64 = memory::read(directory)?;
            // Where they are, and one less than their number.
            let [groups, mask]: [u64; 2] = memory::read(table + offsets.get(GoField::MapTableGroups)?)?;
            (groups, mask + 1)
        }
        // Almost a thousand headers.
        _ => return None,
    };
    in_groups::<false>(groups, count, scratch)
}

/// Before Go 1.24: buckets, and while they grow those that are left.
#[inline(always)]
fn in_buckets(map: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<bool> {
    let bits: u8 = memory::read(map + offsets.get(GoField::HmapB)?)?;
    let [buckets, old]: [u64; 2] = memory::read(map + offsets.get(GoField::HmapBuckets)?)?;
    let count = 1u64 << (bits & 31);
    if in_groups::<true>(buckets, count, scratch)? {
        return Some(true);
    }
    if old == 0 {
        return Some(false);
    }
    // Half as many, or as many if they were only sorted out.
    in_groups::<true>(old, count, scratch)
}

/// Looks at `count` groups in a row, from the address `groups` on. Those that are `CHAINED` are followed by the address
/// of another one, if there is none left in them.
#[inline(always)]
fn in_groups<const CHAINED: bool>(groups: u64, count: u64, scratch: &mut Scratch) -> Option<bool> {
    let stride = CONTROL_BYTES + GROUP_BYTES + if CHAINED { 8 } else { 0 };
    if count > GROUPS_MAX {
        return None;
    }
    let mut index = 0;
    while index < GROUPS_MAX {
        if index >= count {
            break;
        }
        let group = groups + index * stride;
        if in_group(group, scratch)? {
            return Some(true);
        }
        if CHAINED {
            let next: u64 = memory::read(group + stride - 8)?;
            if next != 0 {
                if in_group(next, scratch)? {
                    return Some(true);
                }
                if memory::read::<u64>(next + stride - 8)? != 0 {
                    return None;
                }
            }
        }
        index += 1;
    }
    Some(false)
}

#[inline(always)]
fn in_group(group: u64, scratch: &mut Scratch) -> Option<bool> {
    let window = &mut scratch.window;
    window.fetch(group + CONTROL_BYTES, GROUP_BYTES - 8)?;
    Some(window_has_sw8(scratch.slot) != 0)
}

/// Whether the scratch's window has a string `sw8`.
///
/// A global function, as `head::scan_word` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn window_has_sw8(slot: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let mut at = 0;
    while at < GROUP_BYTES - 8 {
        if is_sw8(&scratch.window, at) {
            return 1;
        }
        at += 8;
    }
    0
}

#[inline(always)]
fn is_sw8(window: &Window, at: u64) -> bool {
    let (Some(address), Some(3)) = (window.word(at), window.word(at + 8)) else {
        return false;
    };
    match memory::read::<[u8; 3]>(address) {
        Some([s, w, b'8']) => s | 0x20 == b's' && w | 0x20 == b'w',
        _ => false,
    }
}
