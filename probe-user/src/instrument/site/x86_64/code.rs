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
}
