//! Loads and stores.

use super::{
    super::steps::{Place, Shift, Step},
    bits, signed,
    steps::{ZERO_OR_STACK, write},
};

/// All of the stack that can be told from another place.
const ANYWHERE: (u64, u64) = (0, u64::MAX);

/// How an instruction finds its place in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addressing {
    /// At a fixed distance.
    Offset(i64),
    /// The same, and the register is moved there: before the access, or after it.
    Before(i64),
    After(i64),
    Otherwise,
}

/// An access of one or two registers.
struct Access {
    loads: bool,
    /// To or from vector registers.
    vector: bool,
    /// Of each register.
    bytes: u64,
    registers: [Option<u32>; 2],
    addressing: Addressing,
}

pub(super) fn decode(word: u32, step: &mut Step) {
    let access = if bits(word, 27, 3) == 0b101 {
        Some(pair(word))
    } else if bits(word, 27, 3) == 0b111 {
        single(word)
    } else {
        None
    };
    match access {
        Some(access) => take(&access, bits(word, 5, 5), step),
        None => take_any(word, step),
    }
}

/// Atomic ones, those at an address that is reckoned from two registers, vectors': whatever they may overwrite.
fn take_any(word: u32, step: &mut Step) {
    for low in [0, 5, 10, 16] {
        write(step, bits(word, low, 5));
    }
    if bits(word, 5, 5) == ZERO_OR_STACK {
        step.stores.push(ANYWHERE);
        step.stack = Shift::Elsewhere;
    }
}

fn pair(word: u32) -> Access {
    let vector = bits(word, 26, 1) == 1;
    let size = bits(word, 30, 2);
    let bytes = match (vector, size) {
        (true, size) => 4 << size,
        (false, 2) => 8,
        (false, _) => 4,
    };
    let distance = signed(word, 15, 7) * bytes;
    Access {
        loads: bits(word, 22, 1) == 1,
        vector,
        bytes: bytes.unsigned_abs(),
        registers: [Some(bits(word, 0, 5)), Some(bits(word, 10, 5))],
        addressing: match bits(word, 23, 2) {
            0b01 => Addressing::After(distance),
            0b11 => Addressing::Before(distance),
            _ => Addressing::Offset(distance),
        },
    }
}

fn single(word: u32) -> Option<Access> {
    let vector = bits(word, 26, 1) == 1;
    let (size, kind) = (bits(word, 30, 2), bits(word, 22, 2));
    if !vector && size == 3 && kind >= 2 {
        // `prfm`: names what to do where others name a register.
        return None;
    }
    let bytes: i64 = if vector && kind >= 2 { 16 } else { 1 << size };
    let unscaled = signed(word, 12, 9);
    let addressing = if bits(word, 24, 2) == 0b01 {
        Addressing::Offset(i64::from(bits(word, 10, 12)) * bytes)
    } else if bits(word, 21, 1) == 0 && bits(word, 24, 2) == 0 {
        match bits(word, 10, 2) {
            0b01 => Addressing::After(unscaled),
            0b11 => Addressing::Before(unscaled),
            _ => Addressing::Offset(unscaled),
        }
    } else if bits(word, 21, 1) == 1 && bits(word, 10, 2) == 0b10 {
        Addressing::Otherwise
    } else {
        return None;
    };
    Some(Access {
        loads: if vector { kind & 1 == 1 } else { kind != 0 },
        vector,
        bytes: bytes.unsigned_abs(),
        registers: [Some(bits(word, 0, 5)), None],
        addressing,
    })
}

fn take(access: &Access, base: u32, step: &mut Step) {
    let Access {
        loads,
        vector,
        bytes,
        registers,
        addressing,
    } = *access;
    let on_stack = base == ZERO_OR_STACK;
    let distance = match addressing {
        Addressing::Offset(distance) => Some(distance),
        Addressing::Before(moved) => {
            move_base(moved, base, step);
            Some(0)
        }
        Addressing::After(moved) => {
            move_base(moved, base, step);
            // Where it stored is told from the stack pointer as it was, which is no more.
            None
        }
        Addressing::Otherwise => None,
    };
    let count = registers.iter().flatten().count() as u64;
    // Below the stack pointer is nothing that anybody keeps.
    let first = distance.and_then(|distance| u64::try_from(distance).ok());
    if on_stack && !loads {
        match (first, distance) {
            (Some(first), _) => step.stores.push((first, bytes * count)),
            (None, Some(below)) => {
                let above = (bytes * count).saturating_sub(below.unsigned_abs());
                step.stores.extend((above > 0).then_some((0, above)));
            }
            (None, None) => step.stores.push(ANYWHERE),
        }
    }
    for (index, register) in registers.into_iter().flatten().enumerate() {
        if loads && !vector {
            write(step, register);
        }
        let Some(slot) = first.filter(|_| on_stack && !vector && bytes == 8 && register != ZERO_OR_STACK)
        else {
            continue;
        };
        let (Ok(register), slot) = (u8::try_from(register), Place::Slot(slot + index as u64 * bytes)) else {
            continue;
        };
        let register = Place::Register(register);
        step.copies
            .push(if loads { (slot, register) } else { (register, slot) });
    }
}

fn move_base(by: i64, base: u32, step: &mut Step) {
    if base == ZERO_OR_STACK {
        step.stack = Shift::Lower(0_u64.wrapping_add_signed(by).wrapping_neg());
    } else {
        write(step, base);
    }
}
