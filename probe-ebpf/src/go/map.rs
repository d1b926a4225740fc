//! The `sw8` among the headers of a request: the one question that is asked of a Go map.
//!
//! Its keys are looked at one by one, for the hash of one would take the process's own seed and function. Go has had two
//! kinds of maps; both keep eight keys and values together, behind eight bytes that tell which are taken.
//! Nothing is read behind the last one that is taken: there the program may never have been, and memory that nobody has
//! touched is not there yet for us to read.

use probe_common::field::{GoField, Offsets};

use crate::{
    memory::{self, GoString, Window},
    scratch::{self, Scratch},
};

/// Bytes of a key, a string, and of a value, a slice.
const KEY_BYTES: u64 = 16;
const VALUE_BYTES: u64 = 24;
/// Bytes of a group's keys and values.
const GROUP_BYTES: u64 = 8 * (KEY_BYTES + VALUE_BYTES);
/// Bytes before them.
const CONTROL_BYTES: u64 = 8;
/// Groups that are looked at: room for 56 headers.
const GROUPS_MAX: u64 = 8;

/// No values.
const NONE: GoString = GoString { address: 0, len: 0 };

/// The values of `sw8`, in whatever case, that the `http.Header` at `header` has: none if their number is 0; nothing if
/// it cannot be told.
#[inline(always)]
pub(crate) fn values_of_sw8(header: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<GoString> {
    if header == 0 {
        return Some(NONE);
    }
    // In both kinds the number of entries comes first.
    if memory::read::<u64>(header)? == 0 {
        return Some(NONE);
    }
    match offsets.get(GoField::MapDirectory) {
        Some(directory_at) => in_directory(header, directory_at, offsets, scratch),
        None => in_buckets(header, offsets, scratch),
    }
}

/// Since Go 1.24: one group, or tables of groups.
#[inline(always)]
fn in_directory(map: u64, directory_at: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<GoString> {
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
    in_groups::<Groups>(groups, count, scratch)
}

/// Before Go 1.24: buckets, and while they grow those that are left.
#[inline(always)]
fn in_buckets(map: u64, offsets: &Offsets, scratch: &mut Scratch) -> Option<GoString> {
    /// The buckets are sorted out, and will be no more than they were.
    const SAME_SIZE_GROW: u8 = 8;
    let [flags, bits]: [u8; 2] = memory::read(map + offsets.get(GoField::HmapB)? - 1)?;
    let [buckets, old]: [u64; 2] = memory::read(map + offsets.get(GoField::HmapBuckets)?)?;
    let count = 1u64 << (bits & 31);
    let found = in_groups::<Buckets>(buckets, count, scratch)?;
    if found.len != 0 || old == 0 {
        return Some(found);
    }
    let old_count = if flags & SAME_SIZE_GROW == 0 {
        count / 2
    } else {
        count
    };
    in_groups::<Buckets>(old, old_count, scratch)
}

/// How a kind of map keeps eight keys and values.
trait Layout {
    /// Each is followed by the address of another one, if there was no room left in it.
    const CHAINED: bool;
    /// As an argument of a global function.
    const NUMBER: u32;

    /// How many places have to be looked at, given the bytes that tell which are taken.
    fn places(control: u64) -> u64;
    /// Bytes of the first places.
    fn bytes(places: u64) -> u64;
}

/// Since Go 1.24.
struct Groups;

impl Layout for Groups {
    const CHAINED: bool = false;
    const NUMBER: u32 = 0;

    #[inline(always)]
    fn places(control: u64) -> u64 {
        // What is not taken has the highest bit.
        up_to_last(!control & HIGH_BITS)
    }

    #[inline(always)]
    fn bytes(places: u64) -> u64 {
        places * (KEY_BYTES + VALUE_BYTES)
    }
}

/// Before.
struct Buckets;

impl Layout for Buckets {
    const CHAINED: bool = true;
    const NUMBER: u32 = 1;

    #[inline(always)]
    fn places(control: u64) -> u64 {
        if is_evacuated(control) {
            return 0;
        }
        // What is taken is not below five.
        up_to_last((((control & !HIGH_BITS) + 0x7b7b_7b7b_7b7b_7b7b) | control) & HIGH_BITS)
    }

    #[inline(always)]
    fn bytes(places: u64) -> u64 {
        // All keys stand before the values.
        8 * KEY_BYTES + places * VALUE_BYTES
    }
}

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// How many of eight bytes come up to the last one whose highest bit is set in `bits`.
#[inline(always)]
fn up_to_last(bits: u64) -> u64 {
    // Without a branch: that bit of each byte below is set, too, and then they are counted.
    let mut up_to = bits >> 7 & ONES;
    up_to |= up_to >> 8;
    up_to |= up_to >> 16;
    up_to |= up_to >> 32;
    up_to.wrapping_mul(ONES) >> 56
}

/// Whether what a bucket had has moved to a new one.
#[inline(always)]
fn is_evacuated(control: u64) -> bool {
    let first = control & 0xff;
    first >= 2 && first <= 4
}

/// Whether a bucket may be followed by another one: one whose last place is empty, and nothing behind it, is not.
#[inline(always)]
fn may_go_on(control: u64) -> bool {
    control >> 56 != 0 && !is_evacuated(control)
}

/// Looks at `count` groups in a row, from the address `groups` on.
#[inline(always)]
fn in_groups<L: Layout>(groups: u64, count: u64, scratch: &mut Scratch) -> Option<GoString> {
    if count > GROUPS_MAX {
        return None;
    }
    let mut index = 0;
    while index < GROUPS_MAX {
        if index >= count {
            break;
        }
        let found = group_sw8(scratch.slot, L::NUMBER, groups + index * stride::<L>());
        if found == UNTOLD {
            return None;
        }
        if found != 0 {
            return scratch.window.string(u64::from(found));
        }
        index += 1;
    }
    Some(NONE)
}

/// Bytes from one group to the next.
#[inline(always)]
fn stride<L: Layout>() -> u64 {
    CONTROL_BYTES + GROUP_BYTES + if L::CHAINED { 8 } else { 0 }
}

/// It cannot be told.
const UNTOLD: u32 = u32::MAX;

/// Where the scratch's window has the values of `sw8` afterwards, if the group at `group`, or one that is chained to
/// it, has the key; 0 if not.
///
/// A global function, as `head::scan_text` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn group_sw8(slot: u32, layout: u32, group: u64) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return UNTOLD;
    };
    let found = if layout == Buckets::NUMBER {
        in_chain::<Buckets>(group, scratch)
    } else {
        in_chain::<Groups>(group, scratch)
    };
    found.unwrap_or(UNTOLD)
}

#[inline(always)]
fn in_chain<L: Layout>(group: u64, scratch: &mut Scratch) -> Option<u32> {
    let mut group = group;
    let mut chained = 0;
    while chained < 2 {
        let control: u64 = memory::read(group)?;
        let found = in_group::<L>(group, control, scratch)?;
        if found != 0 || !L::CHAINED || !may_go_on(control) {
            return Some(found);
        }
        group = memory::read(group + stride::<L>() - 8)?;
        if group == 0 {
            return Some(0);
        }
        chained += 1;
    }
    None
}

#[inline(always)]
fn in_group<L: Layout>(group: u64, control: u64, scratch: &mut Scratch) -> Option<u32> {
    let places = L::places(control);
    if places == 0 {
        return Some(0);
    }
    scratch
        .window
        .fetch(group + CONTROL_BYTES, L::bytes(places) - 8)?;
    Some(window_sw8(scratch.slot, L::NUMBER))
}

/// Where the scratch's window, a group, has the value whose key is `sw8`; 0 if there is none.
///
/// A global function, as `head::scan_word` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn window_sw8(slot: u32, layout: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let mut place = 0;
    while place < 8 {
        let (key, value) = if layout == Buckets::NUMBER {
            (place * KEY_BYTES, 8 * KEY_BYTES + place * VALUE_BYTES)
        } else {
            let key = place * (KEY_BYTES + VALUE_BYTES);
            (key, key + KEY_BYTES)
        };
        if is_sw8(&scratch.window, key) {
            return value as u32;
        }
        place += 1;
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
