//! Takes instructions apart, as far as one has to know them to follow a value. Of what is not known too much is said to
//! be overwritten, never too little.

use super::{
    super::steps::{Decides, Flow, Place, Shift, Step, Steps},
    LOWER, LOWER_OR_SAME, bits, condition, memory, signed, words,
};

/// The number that means no register, or the stack pointer.
pub(super) const ZERO_OR_STACK: u32 = 31;

pub(super) fn decode(body: &[u8]) -> Steps {
    let mut steps = Vec::with_capacity(body.len() / 4);
    // Large frames are reckoned in a register first: its number, and how far it is below the stack pointer.
    let mut reckoned: Option<(u32, u64)> = None;
    for (at, word) in words(body) {
        let mut step = Step {
            flow: flow(at, word),
            decides: decides(word),
            may_check_stack: matches!(condition(word), Some(LOWER_OR_SAME | LOWER)),
            ..Step::at(at)
        };
        match bits(word, 25, 4) {
            // Reserved, and vectors of any length: nothing that Go's compiler uses.
            0b0000..=0b0011 => step.writes = u64::MAX,
            0b1000 | 0b1001 => with_immediate(word, &mut reckoned, &mut step),
            0b1010 | 0b1011 => {
                // System registers are read into one; branches write to none.
                if bits(word, 22, 10) == 0b11_0101_0100 {
                    write(&mut step, bits(word, 0, 5));
                }
            }
            0b0101 | 0b1101 => {
                write(&mut step, bits(word, 0, 5));
                step.copies.extend(moved(word));
            }
            // Floating point: some move to a register of ours.
            0b0111 | 0b1111 => write(&mut step, bits(word, 0, 5)),
            _ => memory::decode(word, &mut step),
        }
        if reckoned
            .is_some_and(|(register, _)| step.stack != Shift::Stays || step.writes >> register & 1 == 1)
            && below_stack(word).is_none()
        {
            reckoned = None;
        }
        steps.push(step);
    }
    Steps(steps)
}

pub(super) fn write(step: &mut Step, register: u32) {
    if register != ZERO_OR_STACK {
        step.writes |= 1 << register;
    }
}

/// Where an instruction leads.
pub(super) fn flow(at: u64, word: u32) -> Flow {
    let to = |low, count| at.wrapping_add_signed(signed(word, low, count) * 4);
    let through_register = word & 0xfe1f_0000 == 0xd61f_0000;
    if bits(word, 26, 6) == 0b00_0101 {
        Flow::Jump(to(0, 26))
    } else if bits(word, 26, 6) == 0b10_0101 {
        Flow::Call(Some(to(0, 26)))
    } else if condition(word).is_some() || bits(word, 25, 6) == 0b01_1010 {
        Flow::Branch(to(5, 19))
    } else if bits(word, 25, 6) == 0b01_1011 {
        Flow::Branch(to(5, 14))
    } else if through_register {
        match bits(word, 21, 4) {
            0b0001 => Flow::Call(None),
            0b0010 => Flow::Return,
            _ => Flow::Anywhere,
        }
    } else if word >> 16 == 0 || bits(word, 24, 8) == 0xd4 && bits(word, 21, 3) != 0 {
        // `udf`, `brk` and the like; `svc` comes back.
        Flow::Ends
    } else {
        Flow::Next
    }
}

/// `cbz` and `cbnz` of a whole register.
fn decides(word: u32) -> Option<Decides> {
    let number = u8::try_from(bits(word, 0, 5)).ok()?;
    let whole = bits(word, 25, 7) == 0b101_1010 && u32::from(number) != ZERO_OR_STACK;
    whole.then_some(Decides {
        on: Place::Register(number),
        taken_for_zero: bits(word, 24, 1) == 0,
    })
}

/// `mov` between registers, which is `orr` with nothing.
fn moved(word: u32) -> Option<(Place, Place)> {
    let register = |low| u8::try_from(bits(word, low, 5)).ok().map(Place::Register);
    let is_move = word & 0xffe0_ffe0 == 0xaa00_03e0 && bits(word, 16, 5) != ZERO_OR_STACK;
    is_move.then_some((register(16)?, register(0)?))
}

/// Arithmetic with a number, of which some makes the frame.
fn with_immediate(word: u32, reckoned: &mut Option<(u32, u64)>, step: &mut Step) {
    let to = bits(word, 0, 5);
    let from = bits(word, 5, 5);
    let number = u64::from(bits(word, 10, 12)) << (12 * bits(word, 22, 1));
    let is_add = word & 0xff80_0000 == 0x9100_0000;
    let is_subtract = word & 0xff80_0000 == 0xd100_0000;
    // Only these can write to the stack pointer, if they do not set the flags.
    let is_sum = word & 0x3f80_0000 == 0x1100_0000;
    let is_mask = word & 0x1f80_0000 == 0x1200_0000 && bits(word, 29, 2) != 3;
    if to == ZERO_OR_STACK && (is_sum || is_mask) {
        step.stack = match *reckoned {
            _ if is_subtract && from == ZERO_OR_STACK => Shift::Lower(number),
            _ if is_add && from == ZERO_OR_STACK => Shift::Lower(0_u64.wrapping_sub(number)),
            Some((register, below)) if is_add && number == 0 && from == register => Shift::Lower(below),
            _ => Shift::Elsewhere,
        };
        return;
    }
    write(step, to);
    if is_add && from == ZERO_OR_STACK {
        step.takes_address = Some(number);
    }
    if let Some(below) = below_stack(word) {
        *reckoned = Some((to, below));
    }
}

/// `sub xN, sp, #number`: the number.
fn below_stack(word: u32) -> Option<u64> {
    let subtracts = word & 0xff80_0000 == 0xd100_0000;
    let from_stack = bits(word, 5, 5) == ZERO_OR_STACK && bits(word, 0, 5) != ZERO_OR_STACK;
    (subtracts && from_stack).then(|| u64::from(bits(word, 10, 12)) << (12 * bits(word, 22, 1)))
}
