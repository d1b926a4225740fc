//! Where a Go function decides that a call it has made has succeeded.
//!
//! `if resp, err := f(); err == nil` compiles to the call, `test rbx, rbx`, and a branch: the results of the call are
//! still in their registers there, and the kernel emulates the branch, while it single-steps the `RET` that comes
//! later. What cannot be proven from the code is not taken: then the returns serve.

use std::collections::BTreeSet;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register};

use super::code::Code;

/// Instructions between a call and the branch on its error: the test, padding, spills.
const NEAR: usize = 12;
/// The registers of the first words of a function's results.
const WORDS: [Register; 5] = [
    Register::RAX,
    Register::RBX,
    Register::RCX,
    Register::RDI,
    Register::RSI,
];

/// The place, and what it spares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Success {
    /// The branch; what it does not take is told from `rbx`, which is zero on success.
    pub(super) at: u64,
    /// Returns that only success leads to.
    pub(super) returns: BTreeSet<u64>,
}

/// Finds where `body` decides about the one call of the function at `callee`, which is given as the distance from
/// the body's first byte, and which returns a pointer and an error.
pub(super) fn find(body: &[u8], callee: u64) -> Option<Success> {
    let code = Code::decode(body)?;
    let checked = code.checked(callee, 2)?;
    let success = if checked.mnemonic() == Mnemonic::Je {
        checked.near_branch_target()
    } else {
        checked.next_ip()
    };
    let edge = (checked.ip(), success);
    let returns = code.returns_from(success, &[])?;
    let others = code.returns_from(0, &[edge])?;
    let spares = !returns.is_empty() && returns.is_disjoint(&others);
    spares.then(|| Success {
        at: checked.ip(),
        returns,
    })
}

/// Where `body` branches on the error of its one call of the function at `callee`, with the call's results in their
/// registers: the first word, and the error from word `error` on.
pub(super) fn branch(body: &[u8], callee: u64, error: usize) -> Option<u64> {
    Some(Code::decode(body)?.checked(callee, error)?.ip())
}

// === impl Code ===

impl Code {
    fn checked(&self, callee: u64, error: usize) -> Option<&Instruction> {
        let error = *WORDS.get(error.checked_sub(1)?)?;
        let call = self.only_call(callee)?;
        let branch = self.branch_on(error, call)?;
        let first = self.instructions.get(call)?.next_ip();
        let checked = self.instructions.get(branch)?;
        // Other calls may share the branch: their results must be in the same registers, too.
        let arrivals = self.jumps_into(first..=checked.ip());
        let live = |index| self.results_live(index, error);
        (live(branch) && arrivals.into_iter().all(live)).then_some(checked)
    }

    /// The branch right behind the test whether the error is nil, soon after the call.
    fn branch_on(&self, error: Register, call: usize) -> Option<usize> {
        let mut tested = false;
        for (index, instruction) in self.instructions.iter().enumerate().skip(call + 1).take(NEAR) {
            if matches!(instruction.mnemonic(), Mnemonic::Je | Mnemonic::Jne) {
                return tested.then_some(index);
            }
            if instruction.flow_control() != FlowControl::Next {
                return None;
            }
            if instruction.mnemonic() == Mnemonic::Test
                && instruction.op0_register() == error
                && instruction.op1_register() == error
            {
                tested = true;
            } else if instruction.rflags_modified() != 0 {
                tested = false;
            }
        }
        None
    }

    /// Branches from elsewhere to a place in `range`.
    fn jumps_into(&self, range: std::ops::RangeInclusive<u64>) -> Vec<usize> {
        let branches = self.instructions.iter().enumerate().filter(|(_, instruction)| {
            matches!(
                instruction.flow_control(),
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
            )
        });
        branches
            .filter(|(_, instruction)| range.contains(&instruction.near_branch_target()))
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether the results of a call are still in their registers when the instruction at `index` runs.
    fn results_live(&self, index: usize, error: Register) -> bool {
        let results = [Register::RAX, error];
        let mut factory = InstructionInfoFactory::new();
        let before = self.instructions.get(index.saturating_sub(NEAR)..index);
        for instruction in before.unwrap_or_default().iter().rev() {
            if matches!(
                instruction.flow_control(),
                FlowControl::Call | FlowControl::IndirectCall
            ) {
                return true;
            }
            let overwritten = factory.info(instruction).used_registers().iter().any(|used| {
                let read_only = matches!(
                    used.access(),
                    OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
                );
                !read_only && results.contains(&used.register().full_register())
            });
            if overwritten || instruction.flow_control() != FlowControl::Next {
                return false;
            }
        }
        false
    }

    /// The returns that can be reached from `start` without going along `edges`. `None` where the way cannot be told.
    pub(super) fn returns_from(&self, start: u64, edges: &[(u64, u64)]) -> Option<BTreeSet<u64>> {
        let mut seen = vec![false; self.instructions.len()];
        let mut returns = BTreeSet::new();
        let mut open = vec![start];
        while let Some(ip) = open.pop() {
            let index = self.index(ip)?;
            let instruction = self.instructions.get(index)?;
            if std::mem::replace(seen.get_mut(index)?, true) {
                continue;
            }
            let mut go = |to: u64| {
                // A jump out of the function does not come back to its returns, nor does a restart matter.
                let leaves = self.index(to).is_none();
                if !edges.contains(&(ip, to)) && !leaves {
                    open.push(to);
                }
            };
            match instruction.flow_control() {
                FlowControl::Return => {
                    returns.insert(ip);
                }
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {
                    go(instruction.next_ip());
                }
                FlowControl::UnconditionalBranch => go(instruction.near_branch_target()),
                FlowControl::ConditionalBranch => {
                    go(instruction.near_branch_target());
                    go(instruction.next_ip());
                }
                // `ud2` and `int3` end a way; a jump through a register could go anywhere.
                FlowControl::Exception | FlowControl::Interrupt => {}
                FlowControl::IndirectBranch | FlowControl::XbeginXabortXend => return None,
            }
        }
        Some(returns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `call f; test rbx, rbx; je +4; nop; xor eax, eax; ret; ret`, with `f` at 0x105.
    const CHECKED: [u8; 15] = [
        0xe8, 0x00, 0x01, 0x00, 0x00, 0x48, 0x85, 0xdb, 0x74, 0x04, 0x90, 0x31, 0xc0, 0xc3, 0xc3,
    ];
    const CALLEE: u64 = 0x105;

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut body = CHECKED.to_vec();
        body.splice(at..at, bytes.iter().copied());
        body
    }

    #[test]
    fn the_branch_and_the_returns_it_spares() {
        let success = find(&CHECKED, CALLEE).unwrap();
        assert_eq!(success.at, 8);
        assert_eq!(success.returns, BTreeSet::from([14]));
    }

    #[test]
    fn a_branch_on_failure_goes_the_other_way() {
        let mut body = CHECKED;
        body[8] = 0x75;
        let success = find(&body, CALLEE).unwrap();
        assert_eq!((success.at, success.returns), (8, BTreeSet::from([13])));
    }

    #[test]
    fn an_error_may_come_in_a_later_word() {
        // test rdi, rdi
        let mut body = CHECKED;
        body[7] = 0xff;
        assert_eq!(branch(&body, CALLEE, 4), Some(8));
        assert_eq!(branch(&body, CALLEE, 2), None);
        assert_eq!(branch(&body, CALLEE, 0), None);
        assert_eq!(branch(&body, CALLEE, 99), None);
    }

    #[test]
    fn padding_and_spills_are_passed_over() {
        // nop; mov [rsp+8], rax
        let body = with(5, &[0x90, 0x48, 0x89, 0x44, 0x24, 0x08]);
        assert_eq!(find(&body, CALLEE).unwrap().at, 14);
    }

    #[test]
    fn results_that_are_gone_are_not_taken() {
        // mov rax, rcx; and xor ebx, ebx, which takes its upper half along.
        assert_eq!(find(&with(5, &[0x48, 0x89, 0xc8]), CALLEE), None);
        assert_eq!(find(&with(5, &[0x31, 0xdb]), CALLEE), None);
    }

    #[test]
    fn another_condition_is_not_taken() {
        // cmp rcx, rdx between the test and the branch; another function; the same one twice.
        assert_eq!(find(&with(8, &[0x48, 0x39, 0xd1]), CALLEE), None);
        assert_eq!(find(&CHECKED, CALLEE + 1), None);
        assert_eq!(find(&with(0, &[0xe8, 0x05, 0x01, 0x00, 0x00]), CALLEE + 5), None);
    }

    #[test]
    fn a_return_that_failure_reaches_too_is_not_spared() {
        // je +1: success skips the nop alone, and both ways meet.
        let mut body = CHECKED;
        body[9] = 1;
        assert_eq!(find(&body, CALLEE), None);
    }

    #[test]
    fn whoever_else_comes_to_the_branch_must_bring_results() {
        // At the end: a jump to the test, behind a call or behind something else.
        let to_test = |before: &[u8]| {
            let mut body = CHECKED.to_vec();
            body.extend_from_slice(before);
            let back = 5 - (body.len() as i8 + 2);
            body.extend_from_slice(&[0xeb, back as u8]);
            body
        };
        // call rcx
        assert!(find(&to_test(&[0xff, 0xd1]), CALLEE).is_some());
        // xor eax, eax
        assert_eq!(find(&to_test(&[0x31, 0xc0]), CALLEE), None);
    }

    #[test]
    fn a_jump_through_a_register_could_go_anywhere() {
        // jmp rcx in place of the nop and the xor's first byte would be cut: put before the last return.
        let mut body = CHECKED.to_vec();
        body.splice(14..14, [0xff, 0xe1]);
        assert_eq!(find(&body, CALLEE), None);
    }
}
