//! A function's instructions.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

pub(super) struct Code {
    pub(super) instructions: Vec<Instruction>,
}

// === impl Code ===

impl Code {
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::with_ip(64, body, 0, DecoderOptions::NONE);
        let mut instructions = Vec::with_capacity(body.len() / 4);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return None;
            }
            instructions.push(instruction);
        }
        Some(Self { instructions })
    }

    pub(super) fn index(&self, ip: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&ip, Instruction::ip).ok()
    }

    /// The one call of the function at `callee`.
    pub(super) fn only_call(&self, callee: u64) -> Option<usize> {
        let mut calls = self.instructions.iter().enumerate().filter(|(_, instruction)| {
            instruction.flow_control() == FlowControl::Call && instruction.near_branch_target() == callee
        });
        let (index, _) = calls.next()?;
        calls.next().is_none().then_some(index)
    }

    /// The instructions that may run after the one at `index`, as far as they are in the function. `None` where the way
    /// cannot be told.
    pub(super) fn next(&self, index: usize) -> Option<Vec<usize>> {
        let instruction = self.instructions.get(index)?;
        let (through, branch) = match instruction.flow_control() {
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => (true, false),
            FlowControl::UnconditionalBranch => (false, true),
            FlowControl::ConditionalBranch => (true, true),
            // `ud2` and `int3` end a way.
            FlowControl::Return | FlowControl::Exception | FlowControl::Interrupt => (false, false),
            // Through a register it could go anywhere.
            FlowControl::IndirectBranch | FlowControl::XbeginXabortXend => return None,
        };
        let mut next = Vec::new();
        if through {
            next.extend(self.index(instruction.next_ip()));
        }
        if branch {
            next.extend(self.index(instruction.near_branch_target()));
        }
        Some(next)
    }
}
