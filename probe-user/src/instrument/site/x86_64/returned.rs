//! Where a Go function has decided what it returns, while that is in the registers that it will be returned in.
//!
//! As in [`super::success`], the place is a branch, which the kernel emulates, and it spares the `RET` behind it; here
//! the way from the branch to the `RET` says what the registers mean, and not a call before it.

use std::collections::BTreeSet;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::{code::Code, success::Success};

/// Instructions between a branch and the return: spills, reloads, the frame's end.
const NEAR: usize = 24;
/// A pointer and an error.
const RESULTS: [Register; 3] = [Register::RAX, Register::RBX, Register::RCX];

/// The branch on an error in `rbx` behind which, if it is nil, the function returns what is in `rax`:
/// `if err != nil { … }; return response, nil`. Only if there is one such place, and no other way to its return.
pub(super) fn nil(body: &[u8]) -> Option<Success> {
    let code = Code::decode(body)?;
    only((0..code.instructions.len()).filter_map(|index| code.nil_at(index)))
}

/// The branch on the error of a call through an interface, where that is compared with one of the package's own, and
/// behind which the call's results are returned as they are:
/// `if response, err := other.RoundTrip(request); err != errSkip { return response, err }`.
/// Only if there is one such place, and no way to its return but by it.
pub(super) fn alternative(body: &[u8]) -> Option<Success> {
    let code = Code::decode(body)?;
    only((0..code.instructions.len()).filter_map(|index| code.alternative_at(index)))
}

fn only(mut places: impl Iterator<Item = Success>) -> Option<Success> {
    let place = places.next()?;
    places.next().is_none().then_some(place)
}

impl Code {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "not our enum: all instructions there are"
    )]
    fn nil_at(&self, index: usize) -> Option<Success> {
        let branch = self.instructions.get(index)?;
        let nil = match branch.mnemonic() {
            Mnemonic::Je => branch.near_branch_target(),
            Mnemonic::Jne => branch.next_ip(),
            _ => return None,
        };
        let test = self.before(index)?;
        let tests_error = test.mnemonic() == Mnemonic::Test
            && test.op0_register() == Register::RBX
            && test.op1_register() == Register::RBX;
        if !tests_error {
            return None;
        }
        let returned = self.straight_return(nil, &RESULTS[..1])?;
        let others = self.returns_from(0, &[(branch.ip(), nil)])?;
        place(branch, returned, &others)
    }

    fn alternative_at(&self, index: usize) -> Option<Success> {
        let branch = self.instructions.get(index)?;
        if branch.mnemonic() != Mnemonic::Jne {
            return None;
        }
        let compare = self.before(index)?;
        let with_own = compare.mnemonic() == Mnemonic::Cmp
            && compare.is_ip_rel_memory_operand()
            && [compare.op0_register(), compare.op1_register()].contains(&Register::RBX);
        if !with_own || !self.follows_indirect_call(index) {
            return None;
        }
        let taken = branch.near_branch_target();
        let returned = self.straight_return(taken, &RESULTS)?;
        let edges = [(branch.ip(), taken), (branch.ip(), branch.next_ip())];
        let others = self.returns_from(0, &edges)?;
        place(branch, returned, &others)
    }

    /// The instruction before the one at `index`, padding aside.
    fn before(&self, index: usize) -> Option<&Instruction> {
        let before = self.instructions.get(..index)?;
        before
            .iter()
            .rev()
            .find(|instruction| instruction.mnemonic() != Mnemonic::Nop)
    }

    /// Whether the results of a call through a register are still where it has left them.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "not our enum: all instructions there are"
    )]
    fn follows_indirect_call(&self, index: usize) -> bool {
        let before = self.instructions.get(index.saturating_sub(NEAR)..index);
        for instruction in before.unwrap_or_default().iter().rev() {
            match instruction.flow_control() {
                FlowControl::IndirectCall => return true,
                FlowControl::Next if written(instruction).all(|register| !RESULTS.contains(&register)) => {}
                _ => return false,
            }
        }
        false
    }

    /// The return that the code from `start` on runs into, if these registers then hold what they held at `start`.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "not our enum: all instructions there are"
    )]
    fn straight_return(&self, start: u64, wanted: &[Register]) -> Option<u64> {
        let mut held: Vec<(Place, Register)> = wanted
            .iter()
            .map(|register| (Place::Register(*register), *register))
            .collect();
        let mut index = self.index(start)?;
        for _ in 0..NEAR {
            let instruction = self.instructions.get(index)?;
            match instruction.flow_control() {
                FlowControl::Return => {
                    let kept = |register: &Register| held.contains(&(Place::Register(*register), *register));
                    return wanted.iter().all(kept).then(|| instruction.ip());
                }
                FlowControl::UnconditionalBranch => index = self.index(instruction.near_branch_target())?,
                FlowControl::Next => {
                    step(instruction, &mut held)?;
                    index += 1;
                }
                _ => return None,
            }
        }
        None
    }
}

fn place(branch: &Instruction, returned: u64, others: &BTreeSet<u64>) -> Option<Success> {
    (!others.contains(&returned)).then(|| Success {
        at: branch.ip(),
        returns: BTreeSet::from([returned]),
    })
}

/// Where a value may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Register(Register),
    /// The frame's eight bytes at this distance from the stack pointer.
    Slot(u64),
}

/// What the instruction does to the values that are `held`. `None` where it writes to memory that may be anybody's.
fn step(instruction: &Instruction, held: &mut Vec<(Place, Register)>) -> Option<()> {
    let to = moved(instruction).map(|(from, to)| {
        let values: Vec<Register> = held
            .iter()
            .filter(|(place, _)| *place == from)
            .map(|(_, value)| *value)
            .collect();
        (to, values)
    });
    if let Some(slot) = slot_written(instruction)? {
        held.retain(|(place, _)| !matches!(place, Place::Slot(other) if slot.contains(other)));
    }
    for register in written(instruction) {
        held.retain(|(place, _)| *place != Place::Register(register));
        if register == Register::RSP {
            held.retain(|(place, _)| !matches!(place, Place::Slot(_)));
        }
    }
    if let Some((to, values)) = to {
        held.extend(values.into_iter().map(|value| (to, value)));
    }
    Some(())
}

/// From where to where a plain move of eight bytes goes.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum: all instructions there are"
)]
fn moved(instruction: &Instruction) -> Option<(Place, Place)> {
    if instruction.mnemonic() != Mnemonic::Mov {
        return None;
    }
    let place = |operand: u32| match instruction.op_kind(operand) {
        OpKind::Register if instruction.op_register(operand).is_gpr64() => {
            Some(Place::Register(instruction.op_register(operand)))
        }
        OpKind::Memory if is_slot(instruction) && instruction.memory_size().size() == 8 => {
            Some(Place::Slot(instruction.memory_displacement64()))
        }
        _ => None,
    };
    Some((place(1)?, place(0)?))
}

fn is_slot(instruction: &Instruction) -> bool {
    instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None
}

/// The slots that the instruction may write to. `None` if it writes elsewhere.
fn slot_written(instruction: &Instruction) -> Option<Option<std::ops::Range<u64>>> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut writes = info
        .used_memory()
        .iter()
        .filter(|used| !is_read(used.access()))
        .peekable();
    // `pop` and the like only read; `push` does not come here.
    if writes.peek().is_none() {
        return Some(None);
    }
    if !is_slot(instruction) {
        return None;
    }
    let at = instruction.memory_displacement64();
    Some(Some(
        at.saturating_sub(7)..at + instruction.memory_size().size() as u64,
    ))
}

fn is_read(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
    )
}

/// The registers that the instruction writes to, whole.
fn written(instruction: &Instruction) -> impl Iterator<Item = Register> + use<> {
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_registers().to_vec();
    used.into_iter()
        .filter(|used| !is_read(used.access()))
        .map(|used| used.register().full_register())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `call rcx; test rbx, rbx; je +3; xor eax, eax; ret; xor ebx, ebx; xor ecx, ecx; ret`.
    const NIL: [u8; 15] = [
        0xff, 0xd1, 0x48, 0x85, 0xdb, 0x74, 0x03, 0x31, 0xc0, 0xc3, 0x31, 0xdb, 0x31, 0xc9, 0xc3,
    ];
    /// `call rcx; cmp rbx, [rip+0x100]; jne +3; xor eax, eax; ret; mov [rsp+8], rax; mov rax, [rsp+8]; ret`.
    const ALTERNATIVE: [u8; 25] = [
        0xff, 0xd1, 0x48, 0x3b, 0x1d, 0x00, 0x01, 0x00, 0x00, 0x75, 0x03, 0x31, 0xc0, 0xc3, 0x48, 0x89, 0x44,
        0x24, 0x08, 0x48, 0x8b, 0x44, 0x24, 0x08, 0xc3,
    ];

    fn with(body: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        body.splice(at..at, bytes.iter().copied());
        body
    }

    #[test]
    fn the_branch_before_a_nil_error_spares_its_return() {
        let found = nil(&NIL).unwrap();
        assert_eq!((found.at, found.returns), (5, BTreeSet::from([14])));
    }

    #[test]
    fn another_result_than_the_one_at_the_branch_is_not_taken() {
        // mov rax, rcx before the last return.
        assert_eq!(nil(&with(&NIL, 14, &[0x48, 0x89, 0xc8])), None);
        // call rcx there.
        assert_eq!(nil(&with(&NIL, 14, &[0xff, 0xd1])), None);
    }

    #[test]
    fn a_return_that_an_error_reaches_too_is_not_spared() {
        // nop in place of the first return: the error falls through to the second.
        let mut body = NIL;
        body[9] = 0x90;
        assert_eq!(nil(&body), None);
    }

    #[test]
    fn two_such_places_are_none() {
        assert_eq!(nil(&[NIL, NIL].concat()), None);
    }

    #[test]
    fn what_another_round_tripper_answers_is_returned_as_it_is() {
        let found = alternative(&ALTERNATIVE).unwrap();
        assert_eq!((found.at, found.returns), (9, BTreeSet::from([24])));
    }

    #[test]
    fn results_that_change_on_the_way_are_not_taken() {
        // mov rcx, rax before the return; mov [rsp+8], rcx between the spill and the reload; mov [rdx], rax.
        assert_eq!(alternative(&with(&ALTERNATIVE, 24, &[0x48, 0x89, 0xc1])), None);
        assert_eq!(
            alternative(&with(&ALTERNATIVE, 19, &[0x48, 0x89, 0x4c, 0x24, 0x08])),
            None
        );
        assert_eq!(alternative(&with(&ALTERNATIVE, 24, &[0x48, 0x89, 0x02])), None);
        // xor ebx, ebx between the call and the comparison.
        assert_eq!(alternative(&with(&ALTERNATIVE, 2, &[0x31, 0xdb])), None);
    }

    #[test]
    fn a_comparison_with_anything_else_is_not_taken() {
        // cmp rbx, [rdx]; a call by name.
        let mut body = ALTERNATIVE.to_vec();
        body.splice(2..9, [0x48, 0x3b, 0x1a]);
        assert_eq!(alternative(&body), None);
        let mut body = ALTERNATIVE.to_vec();
        body.splice(0..2, [0xe8, 0x00, 0x01, 0x00, 0x00]);
        assert_eq!(alternative(&body), None);
    }

    #[test]
    fn a_return_that_is_reached_past_the_branch_is_not_spared() {
        // In front: je to the last return.
        let body = with(&ALTERNATIVE, 0, &[0x74, 24]);
        assert_eq!(alternative(&body), None);
    }
}
