//! Where a Go function decides on the error that a call within it has returned, however far from the call.
//!
//! Unlike in [`success`](super::success), the error may have been put down and fetched again by then, and other branches
//! may come first. So the places that hold it are followed from the call on, along all ways. The function's receiver is
//! not followed: it has a place in the stack that the caller made for it, and keeps it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enums: all instructions and operands there are"
)]

use std::collections::{BTreeSet, VecDeque};

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};

use super::code::Code;

/// The branches: each success passes exactly one of them, with the zero flag set, and whoever passes one without it has
/// failed.
pub(super) fn branches(body: &[u8], callee: u64) -> Option<Vec<u64>> {
    let code = Code::decode(body)?;
    let after = code.only_call(callee)? + 1;
    let held = follow(&code, after)?;
    let mut branches: Vec<Branch> = (0..code.instructions.len())
        .filter_map(|index| branch(&code, index, &held))
        .collect();
    // What success passes twice counts the second time.
    let all = branches.clone();
    let mut leads = |from: &Branch| {
        let mut ways = Ways::new(&code);
        ways.walk(from.success, None)?;
        Some(all.iter().any(|other| ways.seen(other.index)))
    };
    let again: Vec<bool> = branches.iter().map(&mut leads).collect::<Option<_>>()?;
    let mut again = again.into_iter();
    branches.retain(|_| !again.next().unwrap_or_default());
    // And none goes by without passing.
    let mut ways = Ways::new(&code);
    ways.walk(after, Some(&branches))?;
    let is_return = |index: &usize| {
        let instruction = code.instructions.get(*index);
        instruction.is_some_and(|instruction| instruction.flow_control() == FlowControl::Return)
    };
    let goes_by = (0..code.instructions.len())
        .filter(is_return)
        .any(|index| ways.seen(index));
    let at = |branch: &Branch| Some(code.instructions.get(branch.index)?.ip());
    (!goes_by && !branches.is_empty()).then(|| branches.iter().filter_map(at).collect())
}

/// A branch on whether there is an error.
#[derive(Clone, Copy)]
struct Branch {
    index: usize,
    /// Where it goes on without one.
    success: usize,
}

/// The places that hold the error's first word when an instruction begins: registers, and distances from the stack
/// pointer.
#[derive(Clone, Default, PartialEq, Eq)]
struct Held {
    registers: BTreeSet<usize>,
    stack: BTreeSet<u64>,
}

/// Follows the error from where the call has returned it.
fn follow(code: &Code, after: usize) -> Option<Vec<Option<Held>>> {
    let mut held: Vec<Option<Held>> = vec![None; code.instructions.len()];
    *held.get_mut(after)? = Some(Held {
        registers: BTreeSet::from([Register::RAX.number()]),
        stack: BTreeSet::new(),
    });
    let mut factory = InstructionInfoFactory::new();
    let mut open = VecDeque::from([after]);
    while let Some(index) = open.pop_front() {
        let mut state = held.get(index)?.clone()?;
        state.run(code.instructions.get(index)?, &mut factory);
        for next in code.next(index)? {
            let known = held.get_mut(next)?;
            let joined = match known.as_ref() {
                None => state.clone(),
                Some(known) => known.common(&state),
            };
            if known.as_ref() != Some(&joined) {
                *known = Some(joined);
                open.push_back(next);
            }
        }
    }
    Some(held)
}

impl Held {
    fn common(&self, other: &Self) -> Self {
        Self {
            registers: &self.registers & &other.registers,
            stack: &self.stack & &other.stack,
        }
    }

    /// What an instruction leaves of it, and adds to it by copying.
    fn run(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) {
        let is_call = matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        );
        if is_call {
            // No register outlives a call in Go.
            self.registers.clear();
            return;
        }
        let copies = is_copy(instruction) && self.operand_holds(instruction, 1);
        let info = factory.info(instruction);
        for used in info.used_registers() {
            if writes(used.access()) {
                self.registers.remove(&used.register().full_register().number());
            }
        }
        for used in info.used_memory() {
            if let Some((at, bytes)) = written_stack(used) {
                self.stack.retain(|slot| !overlap((at, bytes), *slot));
            }
        }
        if copies {
            match instruction.op0_kind() {
                OpKind::Register => {
                    self.registers.insert(instruction.op0_register().number());
                }
                OpKind::Memory => {
                    self.stack.insert(instruction.memory_displacement64());
                }
                _ => {}
            }
        }
    }

    fn operand_holds(&self, instruction: &Instruction, operand: u32) -> bool {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                register.is_gpr64() && self.registers.contains(&register.number())
            }
            OpKind::Memory => {
                is_slot(instruction) && self.stack.contains(&instruction.memory_displacement64())
            }
            _ => false,
        }
    }
}

/// A copy of eight bytes between registers, or a register and a place in the stack.
fn is_copy(instruction: &Instruction) -> bool {
    let sound = |operand| match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).is_gpr64(),
        OpKind::Memory => is_slot(instruction),
        _ => false,
    };
    instruction.mnemonic() == Mnemonic::Mov && sound(0) && sound(1)
}

/// Whether the instruction's memory is at a fixed distance from the stack pointer.
fn is_slot(instruction: &Instruction) -> bool {
    instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None
}

fn writes(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
    )
}

/// The bytes of the stack that are written: where, and how many.
fn written_stack(used: &UsedMemory) -> Option<(u64, u64)> {
    let bytes = used.memory_size().size() as u64;
    (writes(used.access()) && used.base() == Register::RSP).then(|| (used.displacement(), bytes.max(1)))
}

/// Whether eight bytes at `slot` are among those written.
fn overlap((at, bytes): (u64, u64), slot: u64) -> bool {
    at < slot + 8 && slot < at.saturating_add(bytes)
}

/// The branch at `index`, if it is one on the error.
fn branch(code: &Code, index: usize, held: &[Option<Held>]) -> Option<Branch> {
    let jump = code.instructions.get(index)?;
    if !matches!(jump.mnemonic(), Mnemonic::Je | Mnemonic::Jne) {
        return None;
    }
    // Right behind its test: then nobody comes to it by another way.
    let test = index.checked_sub(1)?;
    let instruction = code.instructions.get(test)?;
    let held = held.get(test)?.as_ref()?;
    let tests = match instruction.mnemonic() {
        Mnemonic::Test => {
            instruction.op0_register() == instruction.op1_register() && held.operand_holds(instruction, 0)
        }
        Mnemonic::Cmp => {
            instruction.memory_size().size() == 8
                && matches!(instruction.op1_kind(), OpKind::Immediate8to64)
                && instruction.immediate8to64() == 0
                && held.operand_holds(instruction, 0)
        }
        _ => false,
    };
    let jumped_to = code.instructions.iter().any(|other| {
        let jumps = matches!(
            other.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        jumps && other.near_branch_target() == jump.ip()
    });
    if !tests || jumped_to {
        return None;
    }
    let success = if jump.mnemonic() == Mnemonic::Je {
        jump.near_branch_target()
    } else {
        jump.next_ip()
    };
    let success = code.index(success)?;
    Some(Branch { index, success })
}

/// Where one can get.
struct Ways<'a> {
    code: &'a Code,
    seen: Vec<bool>,
}

impl<'a> Ways<'a> {
    fn new(code: &'a Code) -> Self {
        Self {
            code,
            seen: vec![false; code.instructions.len()],
        }
    }

    /// From `start`, up to the branches at which it ends.
    fn walk(&mut self, start: usize, until: Option<&[Branch]>) -> Option<()> {
        let mut open = vec![start];
        while let Some(index) = open.pop() {
            if std::mem::replace(self.seen.get_mut(index)?, true) {
                continue;
            }
            let ends = until.is_some_and(|until| until.iter().any(|branch| branch.index == index));
            if !ends {
                open.extend(self.code.next(index)?);
            }
        }
        Some(())
    }

    fn seen(&self, index: usize) -> bool {
        self.seen.get(index).copied().unwrap_or_default()
    }
}

/// Where the function keeps its first argument, as bytes above the stack pointer: in the caller's frame, where it is
/// put down before anything else happens, and where nothing else is put afterwards.
pub(super) fn receiver_at(body: &[u8]) -> Option<u64> {
    let code = Code::decode(body)?;
    let mut factory = InstructionInfoFactory::new();
    let mut frame_bytes = 0_u64;
    let mut kept = None;
    let mut instructions = code.instructions.iter();
    for instruction in instructions.by_ref() {
        match instruction.mnemonic() {
            Mnemonic::Sub if instruction.op0_register() == Register::RSP => {
                frame_bytes = frame_bytes.wrapping_add(instruction.immediate(1));
            }
            // 128 bytes are reserved by adding -128, which is shorter.
            Mnemonic::Add if instruction.op0_register() == Register::RSP => {
                frame_bytes = frame_bytes.wrapping_sub(instruction.immediate(1));
            }
            Mnemonic::Push => frame_bytes += 8,
            // The check of the stack.
            Mnemonic::Jbe | Mnemonic::Jb => {}
            Mnemonic::Mov if is_copy(instruction) && instruction.op1_register() == Register::RAX => {
                if instruction.op0_kind() == OpKind::Memory {
                    kept = Some(instruction.memory_displacement64());
                    break;
                }
            }
            _ => {
                let goes_on = instruction.flow_control() == FlowControl::Next;
                let gone =
                    factory.info(instruction).used_registers().iter().any(|used| {
                        writes(used.access()) && used.register().full_register() == Register::RAX
                    });
                if !goes_on || gone {
                    return None;
                }
            }
        }
    }
    // Behind the frame and the return address.
    let at = kept.filter(|at| *at >= frame_bytes + 8)?;
    let disturbs = |instruction: &Instruction| {
        let memory = factory.info(instruction).used_memory();
        let overwrites = |used| written_stack(used).is_some_and(|written| overlap(written, at));
        let takes_address = instruction.mnemonic() == Mnemonic::Lea
            && is_slot(instruction)
            && instruction.memory_displacement64() >= frame_bytes;
        takes_address || memory.iter().any(overwrites)
    };
    (!instructions.any(disturbs)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sub rsp, 0x18; mov [rsp+0x20], rax; call f; mov [rsp+8], rax; call g; mov rcx, [rsp+8]; test rcx, rcx;
    /// jne +2; xor eax, eax; add rsp, 0x18; ret`.
    const FUNCTION: [&[u8]; 11] = [
        &[0x48, 0x83, 0xec, 0x18],
        &[0x48, 0x89, 0x44, 0x24, 0x20],
        &[0xe8, 0x00, 0x01, 0x00, 0x00],
        &[0x48, 0x89, 0x44, 0x24, 0x08],
        &[0xe8, 0x00, 0x02, 0x00, 0x00],
        &[0x48, 0x8b, 0x4c, 0x24, 0x08],
        &[0x48, 0x85, 0xc9],
        &[0x75, 0x02],
        &[0x31, 0xc0],
        &[0x48, 0x83, 0xc4, 0x18],
        &[0xc3],
    ];
    const CALLEE: u64 = 0x10e;
    const BRANCH: u64 = 32;

    /// The function with other instructions in the place of one.
    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut parts = FUNCTION;
        parts[at] = bytes;
        parts.concat()
    }

    #[test]
    fn the_error_is_followed_through_the_stack_and_past_calls() {
        let body = FUNCTION.concat();
        assert_eq!(branches(&body, CALLEE), Some(vec![BRANCH]));
        assert_eq!(branches(&body, CALLEE + 1), None);
        assert_eq!(receiver_at(&body), Some(0x20));
    }

    #[test]
    fn it_may_be_compared_where_it_lies() {
        // cmp qword [rsp+8], 0; je +2
        let mut parts = FUNCTION;
        parts[6] = &[0x48, 0x83, 0x7c, 0x24, 0x08, 0x00];
        parts[7] = &[0x74, 0x02];
        assert_eq!(branches(&parts.concat(), CALLEE), Some(vec![BRANCH + 3]));
    }

    #[test]
    fn what_is_overwritten_is_not_the_error_any_more() {
        // mov [rsp+8], rdx after the other call; mov rcx, [rsp+16]; half of it written.
        assert_eq!(branches(&with(5, &[0x48, 0x89, 0x54, 0x24, 0x08]), CALLEE), None);
        assert_eq!(branches(&with(5, &[0x48, 0x8b, 0x4c, 0x24, 0x10]), CALLEE), None);
        let half = [&[0x89, 0x54, 0x24, 0x0c][..], FUNCTION[5]].concat();
        assert_eq!(branches(&with(5, &half), CALLEE), None);
        // The register does not outlive the call: test rax, rax.
        assert_eq!(branches(&with(6, &[0x48, 0x85, 0xc0]), CALLEE), None);
    }

    #[test]
    fn another_way_past_the_branch_is_not_taken() {
        // je to the `add` behind the branch, on something else.
        let past = [FUNCTION[5], &[0x48, 0x85, 0xd2, 0x74, 0x07]].concat();
        assert_eq!(branches(&with(5, &past), CALLEE), None);
    }

    #[test]
    fn of_two_branches_on_one_way_the_last_counts() {
        let twice = [FUNCTION[6], &[0x75, 0x00], FUNCTION[6]].concat();
        assert_eq!(branches(&with(6, &twice), CALLEE), Some(vec![BRANCH + 5]));
    }

    #[test]
    fn of_two_branches_on_two_ways_both_count() {
        // test rdx, rdx; je to the function's own test; test rcx, rcx; jne there, too; else past it.
        let mut parts = FUNCTION;
        let fork = [
            FUNCTION[5],
            &[0x48, 0x85, 0xd2, 0x74, 0x07],
            FUNCTION[6],
            &[0x75, 0x02, 0xeb, 0x07],
        ]
        .concat();
        parts[5] = &fork;
        assert_eq!(
            branches(&parts.concat(), CALLEE),
            Some(vec![BRANCH + 5, BRANCH + 12])
        );
    }

    #[test]
    fn a_receiver_that_is_not_kept_is_not_known() {
        // Not put down; put down in the function's own frame; overwritten later; its address is taken.
        assert_eq!(receiver_at(&with(1, &[0x90])), None);
        assert_eq!(receiver_at(&with(1, &[0x48, 0x89, 0x44, 0x24, 0x10])), None);
        assert_eq!(receiver_at(&with(3, &[0x48, 0x89, 0x4c, 0x24, 0x20])), None);
        assert_eq!(receiver_at(&with(3, &[0x48, 0x8d, 0x44, 0x24, 0x20])), None);
        // mov eax, ecx before: it is gone.
        let gone = [&[0x89, 0xc8][..], FUNCTION[1]].concat();
        assert_eq!(receiver_at(&with(1, &gone)), None);
    }

    #[test]
    fn the_frame_may_be_made_in_several_ways() {
        // push rbp; mov rbp, rsp; add rsp, -128
        let mut parts = FUNCTION;
        parts[0] = &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xc4, 0x80];
        // mov [rsp+0x90], rax
        parts[1] = &[0x48, 0x89, 0x84, 0x24, 0x90, 0x00, 0x00, 0x00];
        assert_eq!(receiver_at(&parts.concat()), Some(0x90));
    }
}
