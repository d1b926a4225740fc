//! Where `runtime.newproc1` takes ids of goroutines from.

use std::collections::HashMap;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use super::super::GOID_BATCH;

/// See [`super::super::goidgen`].
pub(super) fn goidgen(address: u64, body: &[u8]) -> Option<u64> {
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
