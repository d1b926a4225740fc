//! 64-bit ARM. Each instruction is a word of four bytes.

mod goidgen;
mod memory;
mod steps;

use super::{
    CHECK_INSTRUCTIONS, Decision, Machine, Place, SiteError, Spared, Spot,
    steps::{Decides, Flow, Steps},
};

pub(super) struct Aarch64;

/// `ldr x16, [x28, #16]`: the stack's limit, `runtime.g.stackguard0`.
const LOAD_STACKGUARD: u32 = 0xf940_0b90;
const RET: u32 = 0xd65f_03c0;
/// Conditions of a branch: "lower or same", and "lower", by which a huge frame's underflow is told.
const LOWER_OR_SAME: u32 = 9;
const LOWER: u32 = 3;
/// Instructions between a call and the branch on its error: padding, spills.
const NEAR: usize = 12;

impl Machine for Aarch64 {
    fn entry(&self, body: &[u8]) -> Result<Spot, SiteError> {
        let mut loaded = false;
        let mut compared = false;
        for (at, word) in words(body).take(CHECK_INSTRUCTIONS) {
            if loaded && compared && condition(word) == Some(LOWER_OR_SAME) {
                return Ok(spot(at, Place::StackCheck, word));
            }
            loaded |= word == LOAD_STACKGUARD;
            // `cmp sp, x16` or `cmp x17, x16`.
            compared = matches!(word, 0xeb30_63ff | 0xeb10_023f);
            if matches!(
                steps::flow(at, word),
                Flow::Jump(_) | Flow::Call(_) | Flow::Return
            ) {
                break;
            }
        }
        let (at, word) = words(body).next().ok_or(SiteError::Empty)?;
        Ok(spot(at, Place::Entry, word))
    }

    fn returns(&self, body: &[u8]) -> Result<Vec<Spot>, SiteError> {
        let returns = words(body).filter(|(_, word)| *word == RET);
        let spots: Vec<Spot> = returns.map(|(at, word)| spot(at, Place::Return, word)).collect();
        if spots.is_empty() {
            Err(SiteError::NoReturn)
        } else {
            Ok(spots)
        }
    }

    fn calls(&self, body: &[u8], callee: u64) -> Vec<u64> {
        let calls = words(body).filter(|(at, word)| steps::flow(*at, *word) == Flow::Call(Some(callee)));
        calls.map(|(at, _)| at).collect()
    }

    fn after_call(&self, body: &[u8], callee: u64, error: usize) -> Option<Spot> {
        let code = self.steps(body)?;
        let call = code.only_call(callee)?;
        let error = super::steps::Place::Register(u8::try_from(error.checked_sub(1)?).ok()?);
        let results = [super::steps::Place::Register(0), error];
        let jumped_to = code.jumped_to();
        for index in (call + 1..).take(NEAR) {
            let step = code.get(index)?;
            // Who comes here by another way has other results.
            if jumped_to.contains(&step.at) || results.iter().any(|result| step.overwrites(*result)) {
                return None;
            }
            match step.flow {
                Flow::Next => {}
                Flow::Branch(_) => {
                    let decides = step.decides.filter(|decides| decides.on == error)?;
                    return Some(self.branch(step.at, decides));
                }
                Flow::Call(_) | Flow::Jump(_) | Flow::Return | Flow::Ends | Flow::Anywhere => return None,
            }
        }
        None
    }

    /// The kernel simulates returns, too: there is nothing to spare.
    fn spared(&self, _body: &[u8], _decision: Decision) -> Option<Spared> {
        None
    }

    fn steps(&self, body: &[u8]) -> Option<Steps> {
        Some(steps::decode(body))
    }

    fn branch(&self, at: u64, decides: Decides) -> Spot {
        Spot {
            at,
            place: Place::Success,
            emulated: true,
            // The branch looks at a register, and leaves the flags alone.
            decides_on: match decides.on {
                super::steps::Place::Register(number) => Some(number),
                super::steps::Place::Slot(_) => None,
            },
        }
    }

    fn goidgen(&self, address: u64, body: &[u8]) -> Option<u64> {
        goidgen::goidgen(address, body)
    }
}

/// The body's instructions, and where each is.
fn words(body: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    let words = body.as_chunks::<4>().0.iter();
    words
        .enumerate()
        .map(|(index, word)| (index as u64 * 4, u32::from_le_bytes(*word)))
}

fn spot(at: u64, place: Place, word: u32) -> Spot {
    Spot {
        at,
        place,
        emulated: simulated(at, word),
        decides_on: None,
    }
}

/// What Linux simulates for uprobes: whatever branches, calls or returns, and the address of something near. From 6.13
/// on `nop` is simulated, too, but no function begins with one.
fn simulated(at: u64, word: u32) -> bool {
    let address = word & 0x1f00_0000 == 0x1000_0000;
    address
        || match steps::flow(at, word) {
            Flow::Call(_) | Flow::Jump(_) | Flow::Branch(_) | Flow::Return | Flow::Anywhere => true,
            Flow::Next | Flow::Ends => false,
        }
}

/// The condition of a conditional branch.
fn condition(word: u32) -> Option<u32> {
    (word & 0xff00_0010 == 0x5400_0000).then_some(word & 0xf)
}

/// The bits from `low` on, `count` of them.
fn bits(word: u32, low: u32, count: u32) -> u32 {
    word >> low & ((1 << count) - 1)
}

/// The same as a number with a sign.
fn signed(word: u32, low: u32, count: u32) -> i64 {
    let left = 32 - low - count;
    i64::from((word << left).cast_signed() >> (32 - count))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{SiteKind, find, goidgen},
        *,
    };
    use crate::discover::elf::Architecture;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn the_branch_of_a_frame_else_the_first_instruction() {
        let find = |kind, words: &[u32]| find(Architecture::Arm64, kind, &bytes(words), None).unwrap();
        // ldr x16, [x28, #16]; cmp sp, x16; b.ls
        let small = find(SiteKind::StackCheck, &[0xf940_0b90, 0xeb30_63ff, 0x5400_0609]);
        assert_eq!(
            small,
            [Spot {
                at: 8,
                place: Place::StackCheck,
                emulated: true,
                decides_on: None
            }]
        );
        // ldr x16, [x28, #16]; sub x17, sp, #0x80; cmp x17, x16; b.ls
        let large = find(
            SiteKind::StackCheck,
            &[0xf940_0b90, 0xd102_03f1, 0xeb10_023f, 0x5400_0609],
        );
        assert_eq!(
            large,
            [Spot {
                at: 12,
                place: Place::StackCheck,
                emulated: true,
                decides_on: None
            }]
        );
        // sub sp, sp, #16; ret
        let none = find(SiteKind::StackCheck, &[0xd100_43ff, RET]);
        assert_eq!(
            none,
            [Spot {
                at: 0,
                place: Place::Entry,
                emulated: false,
                decides_on: None
            }]
        );
        let returns = find(SiteKind::EachReturn, &[RET, 0xd503_201f, RET]);
        assert_eq!(returns.iter().map(|spot| spot.at).collect::<Vec<_>>(), [0, 8]);
    }

    #[test]
    fn a_call_is_known_by_where_it_leads() {
        // nop; bl back by 8 bytes.
        let body = bytes(&[0xd503_201f, 0x97ff_fffe]);
        assert_eq!(Aarch64.calls(&body, 4_u64.wrapping_sub(8)), [4]);
        assert!(Aarch64.calls(&body, 4).is_empty());
    }

    #[test]
    fn the_branch_behind_a_call_looks_at_a_register() {
        // bl f; str x0, [sp, #8]; cbz x3, +8; ret; ret
        let body = [0x9400_0040, 0xf900_07e0, 0xb400_0043, RET, RET];
        let after = |words: &[u32], error| {
            let kind = SiteKind::AfterCall { callee: "f", error };
            find(Architecture::Arm64, kind, &bytes(words), Some(0x100))
        };
        let wanted = Spot {
            at: 8,
            place: Place::Success,
            emulated: true,
            decides_on: Some(3),
        };
        assert_eq!(after(&body, 4), Ok(vec![wanted]));
        assert_eq!(after(&body, 3), Err(SiteError::NoBranch));
        assert_eq!(after(&body, 0), Err(SiteError::NoBranch));
        // ldr x3, [sp]; b from elsewhere to the branch.
        let mut other = body;
        other[1] = 0xf940_03e3;
        assert_eq!(after(&other, 4), Err(SiteError::NoBranch));
        let mut joined = body.to_vec();
        joined.push(0x17ff_fffd);
        assert_eq!(after(&joined, 4), Err(SiteError::NoBranch));
    }

    #[test]
    fn what_linux_simulates() {
        // b; b.eq; bl; br x1; blr x1; ret; cbz; cbnz w; tbz; adr; adrp
        for word in [
            0x1400_0001,
            0x5400_0020,
            0x9400_0001,
            0xd61f_0020,
            0xd63f_0020,
            RET,
            0xb400_0020,
            0x3500_0020,
            0x3600_0020,
            0x1000_0000,
            0x9000_0000,
        ] {
            assert!(simulated(0, word), "{word:#x}");
        }
        // ldr x0, [sp]; add x0, x0, #1; nop; ldr x0, +4; stp x29, x30, [sp, #-16]!; brk
        for word in [
            0xf940_03e0,
            0x9100_0400,
            0xd503_201f,
            0x5800_0020,
            0xa9bf_7bfd,
            0xd420_0000,
        ] {
            assert!(!simulated(0, word), "{word:#x}");
        }
    }

    #[test]
    fn the_counter_of_goroutines_is_the_one_raised_by_sixteen() {
        // orr x8, xzr, #16; adrp x9, +1 page; add x9, x9, #0x2e0; ldaddal x8, x10, [x9]
        let batch = [0xb27c_03e8, 0xb000_0009, 0x910b_8129, 0xf8e8_012a];
        let goidgen = |words: &[u32]| goidgen(Architecture::Arm64, 0x1040, &bytes(words));
        assert_eq!(goidgen(&batch), Some(0x22e0));
        assert_eq!(goidgen(&[batch, batch].concat()), None);
        // orr x8, xzr, #1 instead; mov x8, #16; a call between.
        let with = |at: usize, word| {
            let mut words = batch;
            words[at] = word;
            goidgen(&words)
        };
        assert_eq!(with(0, 0xb240_03e8), None);
        assert_eq!(with(0, 0xd280_0208), Some(0x22e0));
        let call = [&batch[..3], &[0x9400_0001], &batch[3..]].concat();
        assert_eq!(goidgen(&call), None);
    }
}
