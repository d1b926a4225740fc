//! Where in a function a probe goes.
//!
//! A Go function begins with the check whether its stack suffices: a comparison with the goroutine's limit, and a
//! conditional branch to where the stack is grown. At that branch all arguments are still in their registers, and
//! it is an instruction that the kernel emulates instead of single-stepping it, which is ten times cheaper. When
//! the branch is taken the function begins anew afterwards, so a program that is attached there skips such a hit.

mod code;
mod result;
mod returned;
mod success;

use std::collections::HashMap;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use thiserror::Error;

use crate::discover::elf::Architecture;

/// The longest function that is taken apart: real ones that are hooked have a few thousand bytes.
pub const BODY_MAX: u64 = 256 * 1024;
/// Instructions within which the stack check ends: five with the largest frames.
const CHECK_INSTRUCTIONS: usize = 10;
/// `runtime.g.stackguard0`, which all versions and both architectures have at the same place.
const STACKGUARD0: u64 = 16;

/// What a hook asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Once at each call, with the arguments in their registers.
    StackCheck,
    /// The same, of a function that is known by its call of `callee`: a literal's name is but a number.
    Calling { callee: &'static str },
    /// Where the function calls `callee`, with that one's arguments in their registers: for calls of it by this
    /// function alone.
    Call { callee: &'static str },
    /// Where the function decides that its call of `callee` has succeeded, with that call's results in their
    /// registers. Nowhere, if that place cannot be told, or spares nothing.
    Success { callee: &'static str },
    /// The branch on the error of the function's call of `callee`, whose error is the result from word `error` on.
    AfterCall { callee: &'static str, error: usize },
    /// Where the function decides on the error that its one call of `callee` has returned, once for each call that
    /// succeeds, with its own receiver in the stack (see [`receiver_at`]).
    Result { callee: &'static str },
    /// The branch of `Transport.roundTrip` on what another protocol's round tripper has answered, with the results in
    /// their registers. Nowhere, if that place cannot be told, or spares nothing.
    Alternative,
    /// At each return, but for those that only [`Success`](Self::Success) or [`Alternative`](Self::Alternative) leads
    /// to.
    Returns { but_success_of: &'static str },
    /// The branch on the error that is returned if it is nil, with the result in its register. Nowhere, if that place
    /// cannot be told, or spares nothing.
    NilReturned,
    /// At each return, but for the one that [`NilReturned`](Self::NilReturned) leads to.
    ErrorReturns,
    /// At each return.
    EachReturn,
}

// === impl SiteKind ===

impl SiteKind {
    /// The other function that has to be known.
    pub fn callee(self) -> Option<&'static str> {
        match self {
            Self::StackCheck
            | Self::Alternative
            | Self::NilReturned
            | Self::ErrorReturns
            | Self::EachReturn => None,
            Self::Success { callee }
            | Self::Calling { callee }
            | Self::Call { callee }
            | Self::AfterCall { callee, .. }
            | Self::Result { callee }
            | Self::Returns {
                but_success_of: callee,
            } => Some(callee),
        }
    }

    /// Where it has no place, the function's returns say the same.
    pub fn is_spared_by_returns(self) -> bool {
        matches!(self, Self::Success { .. } | Self::Alternative | Self::NilReturned)
    }
}

/// What is at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The branch of the stack check: the hit does not count when the branch is taken.
    StackCheck,
    /// The first instruction of a function that has no stack check: every hit counts.
    Entry,
    /// A call: every hit counts.
    Call,
    /// The branch on a call's error: the hit counts where the error is nil.
    Success,
    /// A return instruction.
    Return,
}

/// An instruction to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Bytes from the function's first instruction.
    pub at: u64,
    pub place: Place,
    /// The kernel emulates the instruction instead of single-stepping it.
    pub emulated: bool,
}

/// Why a function has no such site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SiteError {
    #[error("the function is empty")]
    Empty,
    #[error("the instruction at +{0:#x} is not understood")]
    NotUnderstood(u64),
    #[error("the branch on the error of the call within it was not found")]
    NoBranch,
    #[error("it does not call the function that tells it from others")]
    NoCall,
    #[error("the function never returns")]
    NoReturn,
}

/// Finds the instructions in the function's bytes, which may end in padding. `callee` is where the function that
/// `kind` names begins, as the distance from the first byte.
pub fn find(
    architecture: Architecture,
    kind: SiteKind,
    body: &[u8],
    callee: Option<u64>,
) -> Result<Vec<Spot>, SiteError> {
    let success = || callee.and_then(|callee| success::find(body, callee));
    match (architecture, kind) {
        (Architecture::Amd64, SiteKind::StackCheck) => amd64_entry(body).map(|spot| vec![spot]),
        (Architecture::Amd64, SiteKind::Calling { .. }) => {
            only_calling(amd64_entry(body), callee.map(|callee| amd64_calls(body, callee)))
        }
        (Architecture::Amd64, SiteKind::Call { .. }) => calls(callee.map(|callee| amd64_calls(body, callee))),
        (Architecture::Amd64, SiteKind::Success { .. }) => Ok(branches(success())),
        (Architecture::Amd64, SiteKind::Alternative) => Ok(branches(returned::alternative(body))),
        (Architecture::Amd64, SiteKind::NilReturned) => Ok(branches(returned::nil(body))),
        (Architecture::Amd64, SiteKind::AfterCall { error, .. }) => {
            let at = callee.and_then(|callee| success::branch(body, callee, error));
            Ok(vec![amd64_branch(at.ok_or(SiteError::NoBranch)?)])
        }
        (Architecture::Amd64, SiteKind::Result { .. }) => {
            let branches = callee.and_then(|callee| result::branches(body, callee));
            let branches = branches.filter(|_| result::receiver_at(body).is_some());
            let spots = branches.ok_or(SiteError::NoBranch)?;
            Ok(spots.into_iter().map(amd64_branch).collect())
        }
        (Architecture::Amd64, SiteKind::Returns { .. }) => {
            amd64_returns_but(body, success().into_iter().chain(returned::alternative(body)))
        }
        (Architecture::Amd64, SiteKind::ErrorReturns) => amd64_returns_but(body, returned::nil(body)),
        (Architecture::Amd64, SiteKind::EachReturn) => amd64_returns(body),
        (Architecture::Arm64, SiteKind::StackCheck) => arm64_entry(body).map(|spot| vec![spot]),
        (Architecture::Arm64, SiteKind::Calling { .. }) => {
            only_calling(arm64_entry(body), callee.map(|callee| arm64_calls(body, callee)))
        }
        (Architecture::Arm64, SiteKind::Call { .. }) => calls(callee.map(|callee| arm64_calls(body, callee))),
        // Returns are simulated there: nothing to spare.
        (Architecture::Arm64, SiteKind::Success { .. } | SiteKind::Alternative | SiteKind::NilReturned) => {
            Ok(Vec::new())
        }
        (Architecture::Arm64, SiteKind::AfterCall { .. } | SiteKind::Result { .. }) => {
            Err(SiteError::NoBranch)
        }
        (Architecture::Arm64, SiteKind::Returns { .. } | SiteKind::ErrorReturns | SiteKind::EachReturn) => {
            arm64_returns(body)
        }
    }
}

/// Where the function of these bytes keeps its first argument, as bytes above the stack pointer, from its beginning to
/// its end. `None` unless the code proves it.
pub fn receiver_at(architecture: Architecture, body: &[u8]) -> Option<u64> {
    match architecture {
        Architecture::Amd64 => result::receiver_at(body),
        Architecture::Arm64 => None,
    }
}

/// The function's entry, if there are such calls in it.
fn only_calling(entry: Result<Spot, SiteError>, calls: Option<Vec<u64>>) -> Result<Vec<Spot>, SiteError> {
    let entry = entry?;
    match calls {
        Some(calls) if !calls.is_empty() => Ok(vec![entry]),
        Some(_) | None => Err(SiteError::NoCall),
    }
}

/// These calls, which both architectures emulate.
fn calls(calls: Option<Vec<u64>>) -> Result<Vec<Spot>, SiteError> {
    let calls = calls.filter(|calls| !calls.is_empty()).ok_or(SiteError::NoCall)?;
    let spot = |at| Spot {
        at,
        place: Place::Call,
        emulated: true,
    };
    Ok(calls.into_iter().map(spot).collect())
}

fn amd64_branch(at: u64) -> Spot {
    Spot {
        at,
        place: Place::Success,
        emulated: true,
    }
}

fn branches(decided: Option<success::Success>) -> Vec<Spot> {
    decided
        .map(|decided| amd64_branch(decided.at))
        .into_iter()
        .collect()
}

/// The returns that none of these spares.
fn amd64_returns_but(
    body: &[u8],
    decided: impl IntoIterator<Item = success::Success>,
) -> Result<Vec<Spot>, SiteError> {
    let spared: Vec<u64> = decided.into_iter().flat_map(|decided| decided.returns).collect();
    let mut spots = amd64_returns(body)?;
    spots.retain(|spot| !spared.contains(&spot.at));
    Ok(spots)
}

/// Where the body calls what begins at this distance from its first byte.
fn amd64_calls(body: &[u8], callee: u64) -> Vec<u64> {
    let calls = decoder(body).into_iter().filter(|instruction| {
        instruction.code() == Code::Call_rel32_64 && instruction.near_branch_target() == callee
    });
    calls.map(|instruction| instruction.ip()).collect()
}

fn decoder(body: &[u8]) -> Decoder<'_> {
    Decoder::with_ip(64, body, 0, DecoderOptions::NONE)
}

fn amd64_entry(body: &[u8]) -> Result<Spot, SiteError> {
    let mut decoder = decoder(body);
    let mut first = None;
    let mut compared = false;
    let mut instruction = Instruction::default();
    for _ in 0..CHECK_INSTRUCTIONS {
        if !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        if instruction.mnemonic() == Mnemonic::Endbr64 {
            continue;
        }
        let at = instruction.ip();
        let spot = |place| Spot {
            at,
            place,
            emulated: amd64_emulated(&instruction),
        };
        if first.is_none() {
            first = Some(spot(Place::Entry));
        }
        if compared && instruction.mnemonic() == Mnemonic::Jbe {
            return Ok(spot(Place::StackCheck));
        }
        compared = compares_with_stackguard(&instruction);
        // Before the check only the frame's size is reckoned, and for huge frames an underflow branched on.
        let leaves = instruction.flow_control() != FlowControl::Next;
        if leaves && instruction.mnemonic() != Mnemonic::Jb {
            break;
        }
    }
    first.ok_or(if body.is_empty() {
        SiteError::Empty
    } else {
        SiteError::NotUnderstood(0)
    })
}

/// `cmp rsp, [r14+16]` or `cmp r12, [r14+16]`.
fn compares_with_stackguard(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Cmp
        && instruction.op1_kind() == OpKind::Memory
        && instruction.memory_base() == Register::R14
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == STACKGUARD0
        && matches!(instruction.op0_register(), Register::RSP | Register::R12)
}

/// What Linux emulates for uprobes on x86-64: branches, calls, `push` of a register and `nop`.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum: all instructions there are"
)]
fn amd64_emulated(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Nopd | Code::Nopw | Code::Nopq => instruction.len() == 1,
        Code::Nop_rm32 | Code::Nop_rm16 | Code::Nop_rm64 => instruction.len() == 5,
        Code::Push_r64 | Code::Call_rel32_64 | Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => true,
        _ => instruction.is_jcc_short_or_near(),
    }
}

fn amd64_returns(body: &[u8]) -> Result<Vec<Spot>, SiteError> {
    let mut decoder = decoder(body);
    let mut spots = Vec::new();
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return Err(SiteError::NotUnderstood(instruction.ip()));
        }
        if instruction.mnemonic() == Mnemonic::Ret {
            spots.push(Spot {
                at: instruction.ip(),
                place: Place::Return,
                emulated: false,
            });
        }
    }
    if spots.is_empty() {
        Err(SiteError::NoReturn)
    } else {
        Ok(spots)
    }
}

/// `ldr x16, [x28, #16]`: the stack's limit.
const ARM64_LOAD_STACKGUARD: u32 = 0xf940_0b90;
const ARM64_RET: u32 = 0xd65f_03c0;

fn arm64_words(body: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    let words = body.as_chunks::<4>().0.iter();
    words
        .enumerate()
        .map(|(index, word)| (index as u64 * 4, u32::from_le_bytes(*word)))
}

fn arm64_entry(body: &[u8]) -> Result<Spot, SiteError> {
    let mut loaded = false;
    let mut compared = false;
    for (at, word) in arm64_words(body).take(CHECK_INSTRUCTIONS) {
        let branch = word & 0xff00_0010 == 0x5400_0000;
        // Condition 9 is "lower or same"; a huge frame's underflow is branched on with 3, "lower", before.
        if branch && loaded && compared && word & 0xf == 9 {
            return Ok(Spot {
                at,
                place: Place::StackCheck,
                emulated: true,
            });
        }
        loaded |= word == ARM64_LOAD_STACKGUARD;
        // `cmp sp, x16` or `cmp x17, x16`.
        compared = matches!(word, 0xeb30_63ff | 0xeb10_023f);
        let leaves = word & 0x7c00_0000 == 0x1400_0000 || word == ARM64_RET;
        if leaves {
            break;
        }
    }
    match arm64_words(body).next() {
        Some((at, word)) => Ok(Spot {
            at,
            place: Place::Entry,
            emulated: arm64_emulated(word),
        }),
        None => Err(SiteError::Empty),
    }
}

/// What Linux simulates for uprobes on arm64, of what may begin a function: branches and `nop`.
fn arm64_emulated(word: u32) -> bool {
    let branch = word & 0x7c00_0000 == 0x1400_0000;
    let conditional = word & 0xff00_0010 == 0x5400_0000;
    let on_zero = word & 0x7e00_0000 == 0x3400_0000;
    let on_bit = word & 0x7e00_0000 == 0x3600_0000;
    branch || conditional || on_zero || on_bit || word == 0xd503_201f
}

/// Where a `bl` leads to what begins at this distance from the first byte.
fn arm64_calls(body: &[u8], callee: u64) -> Vec<u64> {
    let calls = arm64_words(body).filter(|(at, word)| {
        // A distance in words, of 26 bits with its sign.
        let distance = i64::from((word << 6).cast_signed() >> 6) * 4;
        word >> 26 == 0b10_0101 && at.wrapping_add_signed(distance) == callee
    });
    calls.map(|(at, _)| at).collect()
}

fn arm64_returns(body: &[u8]) -> Result<Vec<Spot>, SiteError> {
    let spots: Vec<_> = arm64_words(body)
        .filter(|(_, word)| *word == ARM64_RET)
        .map(|(at, _)| Spot {
            at,
            place: Place::Return,
            emulated: true,
        })
        .collect();
    if spots.is_empty() {
        Err(SiteError::NoReturn)
    } else {
        Ok(spots)
    }
}

/// The address of `runtime.sched.goidgen`, from which `runtime.newproc1` takes ids of goroutines in batches: the
/// only counter that it raises by sixteen at once. `None` unless exactly one such place is there.
pub fn goidgen(architecture: Architecture, address: u64, body: &[u8]) -> Option<u64> {
    match architecture {
        Architecture::Amd64 => amd64_goidgen(address, body),
        // There it is an address in two halves and one of two atomic forms: not needed yet, so not read.
        Architecture::Arm64 => None,
    }
}

/// Ids taken at once, `_GoidCacheBatch`.
const GOID_BATCH: u64 = 16;

fn amd64_goidgen(address: u64, body: &[u8]) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, body, address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut factory = InstructionInfoFactory::new();
    // Registers whose value is known: constants, and addresses that are reckoned from the instruction's own.
    let mut known: HashMap<Register, u64> = HashMap::new();
    let mut found = None;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        if instruction.mnemonic() == Mnemonic::Xadd
            && instruction.has_lock_prefix()
            && known.get(&instruction.op1_register().full_register()) == Some(&GOID_BATCH)
            && let Some(counter) = memory_address(&instruction, &known)
            && found.replace(counter).is_some()
        {
            return None;
        }
        let target = instruction.op0_register().full_register();
        let value = loaded_value(&instruction, &known);
        for used in factory.info(&instruction).used_registers() {
            if !matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            ) {
                known.remove(&used.register().full_register());
            }
        }
        if instruction.op0_kind() == OpKind::Register
            && let Some(value) = value
        {
            known.insert(target, value);
        }
        let stays = matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch
        );
        if !stays {
            known.clear();
        }
    }
    found
}

/// What the instruction puts into the register that is its first operand, where that can be told.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum: all instructions there are"
)]
fn loaded_value(instruction: &Instruction, known: &HashMap<Register, u64>) -> Option<u64> {
    match instruction.mnemonic() {
        Mnemonic::Lea => memory_address(instruction, known),
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
            known.get(&instruction.op1_register().full_register()).copied()
        }
        Mnemonic::Mov if is_immediate(instruction.op1_kind()) => Some(instruction.immediate(1)),
        _ => None,
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64
    )
}

/// The address that an operand in memory has, where its registers are known.
fn memory_address(instruction: &Instruction, known: &HashMap<Register, u64>) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    if instruction.memory_index() != Register::None {
        return None;
    }
    let base = known.get(&instruction.memory_base().full_register())?;
    Some(base.wrapping_add(instruction.memory_displacement64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETURNS: SiteKind = SiteKind::Returns { but_success_of: "f" };

    fn entry(body: &[u8]) -> Spot {
        find(Architecture::Amd64, SiteKind::StackCheck, body, None).unwrap()[0]
    }

    #[test]
    fn the_branch_of_a_small_frame() {
        // cmp rsp, [r14+16]; jbe +2; ret
        let body = [0x49, 0x3b, 0x66, 0x10, 0x76, 0x02, 0xc3];
        assert_eq!(
            entry(&body),
            Spot {
                at: 4,
                place: Place::StackCheck,
                emulated: true
            }
        );
    }

    #[test]
    fn the_branch_of_a_large_frame() {
        // lea r12, [rsp-0x100]; cmp r12, [r14+16]; jbe +0x100
        let body = [
            0x4c, 0x8d, 0xa4, 0x24, 0x00, 0xff, 0xff, 0xff, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0x00, 0x01,
            0x00, 0x00,
        ];
        assert_eq!(
            entry(&body),
            Spot {
                at: 12,
                place: Place::StackCheck,
                emulated: true
            }
        );
    }

    #[test]
    fn the_branch_of_a_huge_frame_is_the_second_one() {
        // mov r12, rsp; sub r12, 0x20000; jb +0x40; cmp r12, [r14+16]; jbe +0x40
        let body = [
            0x49, 0x89, 0xe4, 0x49, 0x81, 0xec, 0x00, 0x00, 0x02, 0x00, 0x72, 0x40, 0x4d, 0x3b, 0x66, 0x10,
            0x76, 0x40,
        ];
        assert_eq!(
            entry(&body),
            Spot {
                at: 16,
                place: Place::StackCheck,
                emulated: true
            }
        );
    }

    #[test]
    fn another_comparison_is_no_stack_check() {
        // cmp rsp, [r14+24]; jbe +2
        let body = [0x49, 0x3b, 0x66, 0x18, 0x76, 0x02, 0xc3];
        assert_eq!(
            entry(&body),
            Spot {
                at: 0,
                place: Place::Entry,
                emulated: false
            }
        );
    }

    #[test]
    fn a_function_without_check_is_entered_at_its_first_instruction() {
        // push rbp; mov rbp, rsp
        assert_eq!(
            entry(&[0x55, 0x48, 0x89, 0xe5, 0xc3]),
            Spot {
                at: 0,
                place: Place::Entry,
                emulated: true
            }
        );
        // endbr64; sub rsp, 8
        let body = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08];
        assert_eq!(
            entry(&body),
            Spot {
                at: 4,
                place: Place::Entry,
                emulated: false
            }
        );
        assert_eq!(
            find(Architecture::Amd64, SiteKind::StackCheck, &[], None),
            Err(SiteError::Empty)
        );
        assert_eq!(
            find(Architecture::Amd64, SiteKind::StackCheck, &[6], None),
            Err(SiteError::NotUnderstood(0))
        );
    }

    #[test]
    fn every_return_is_found_and_data_is_not_taken_for_one() {
        // mov eax, 0xc3c3c3c3; ret; nop; ret; int3
        let body = [0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0x90, 0xc3, 0xcc];
        let at: Vec<_> = find(Architecture::Amd64, RETURNS, &body, None)
            .unwrap()
            .iter()
            .map(|s| s.at)
            .collect();
        assert_eq!(at, [5, 7]);
        assert_eq!(
            find(Architecture::Amd64, RETURNS, &[0xcc], None),
            Err(SiteError::NoReturn)
        );
        assert_eq!(
            find(Architecture::Amd64, RETURNS, &[0x90, 6], None),
            Err(SiteError::NotUnderstood(1))
        );
    }

    #[test]
    fn a_literal_is_known_by_whom_it_calls_and_where() {
        // cmp rsp, [r14+16]; jbe +5; call +0x100; ret
        let body = [
            0x49, 0x3b, 0x66, 0x10, 0x76, 0x05, 0xe8, 0x00, 0x01, 0x00, 0x00, 0xc3,
        ];
        let calling = SiteKind::Calling { callee: "f" };
        let find = |callee| find(Architecture::Amd64, calling, &body, callee);
        assert_eq!(find(Some(0x10b)).unwrap()[0].at, 4);
        for other in [Some(0x10c), None] {
            assert_eq!(find(other), Err(SiteError::NoCall));
        }
        let call = |callee| super::find(Architecture::Amd64, SiteKind::Call { callee: "f" }, &body, callee);
        let wanted = Spot {
            at: 6,
            place: Place::Call,
            emulated: true,
        };
        assert_eq!(call(Some(0x10b)), Ok(vec![wanted]));
        assert_eq!(call(Some(0x10c)), Err(SiteError::NoCall));
        // nop; bl back by 8 bytes.
        let body: Vec<u8> = [0xd503_201f_u32, 0x97ff_fffe]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(arm64_calls(&body, 4_u64.wrapping_sub(8)), [4]);
        assert!(arm64_calls(&body, 4).is_empty());
    }

    #[test]
    fn arm64_has_the_same_shape() {
        let bytes = |words: &[u32]| {
            words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect::<Vec<_>>()
        };
        let find = |kind, words: &[u32]| find(Architecture::Arm64, kind, &bytes(words), None).unwrap();
        // ldr x16, [x28, #16]; cmp sp, x16; b.ls
        let small = find(SiteKind::StackCheck, &[0xf940_0b90, 0xeb30_63ff, 0x5400_0609]);
        assert_eq!(
            small,
            [Spot {
                at: 8,
                place: Place::StackCheck,
                emulated: true
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
                emulated: true
            }]
        );
        // sub sp, sp, #16; ret
        let none = find(SiteKind::StackCheck, &[0xd100_43ff, ARM64_RET]);
        assert_eq!(
            none,
            [Spot {
                at: 0,
                place: Place::Entry,
                emulated: false
            }]
        );
        let returns = find(RETURNS, &[ARM64_RET, 0xd503_201f, ARM64_RET]);
        assert_eq!(returns.iter().map(|spot| spot.at).collect::<Vec<_>>(), [0, 8]);
    }

    #[test]
    fn the_counter_of_goroutines_is_the_one_raised_by_sixteen() {
        // mov ecx, 1; lock xadd [rip+0x100], rcx; mov ecx, 16; lock xadd [rip+0x200], rcx
        let one = [0xb9, 1, 0, 0, 0, 0xf0, 0x48, 0x0f, 0xc1, 0x0d, 0, 1, 0, 0];
        let batch = [0xb9, 16, 0, 0, 0, 0xf0, 0x48, 0x0f, 0xc1, 0x0d, 0, 2, 0, 0];
        let body = [one, batch].concat();
        assert_eq!(
            goidgen(Architecture::Amd64, 0x1000, &body),
            Some(0x1000 + 28 + 0x200)
        );
        assert_eq!(
            goidgen(Architecture::Amd64, 0x1000, &[batch, batch].concat()),
            None
        );
        assert_eq!(goidgen(Architecture::Amd64, 0x1000, &one), None);
        // mov r9d, 16; lea r10, [rip+0x300]; lock xadd [r10+8], r9
        let apart = [
            0x41, 0xb9, 16, 0, 0, 0, 0x4c, 0x8d, 0x15, 0, 3, 0, 0, 0xf0, 0x4d, 0x0f, 0xc1, 0x4a, 8,
        ];
        assert_eq!(
            goidgen(Architecture::Amd64, 0x1000, &apart),
            Some(0x1000 + 13 + 0x300 + 8)
        );
        // A call between loses what the registers held.
        let call = [&apart[..13], &[0xe8, 0, 0, 0, 0], &apart[13..]].concat();
        assert_eq!(goidgen(Architecture::Amd64, 0x1000, &call), None);
    }
}
