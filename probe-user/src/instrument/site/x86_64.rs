//! 64-bit x86.

mod code;
mod goidgen;
mod returned;
mod success;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register, UsedMemory,
};

use self::success::Success;
use super::{
    CHECK_INSTRUCTIONS, Decision, Machine, Place, SiteError, Spared, Spot,
    steps::{self, Decides, Flow, Shift, Step, Steps},
};

/// `runtime.g.stackguard0`, which all versions have at the same place.
const STACKGUARD0: u64 = 16;

pub(super) struct X86_64;

impl Machine for X86_64 {
    fn entry(&self, body: &[u8]) -> Result<Spot, SiteError> {
        entry(body)
    }

    fn returns(&self, body: &[u8]) -> Result<Vec<Spot>, SiteError> {
        returns(body)
    }

    fn calls(&self, body: &[u8], callee: u64) -> Vec<u64> {
        calls(body, callee)
    }

    fn after_call(&self, body: &[u8], callee: u64, error: usize) -> Option<Spot> {
        success::branch(body, callee, error).map(branch)
    }

    fn spared(&self, body: &[u8], decision: Decision) -> Option<Spared> {
        let Success { at, returns } = match decision {
            Decision::Call(callee) => success::find(body, callee),
            Decision::Alternative => returned::alternative(body),
            Decision::Nil => returned::nil(body),
        }?;
        Some(Spared {
            branch: branch(at),
            returns,
        })
    }

    fn steps(&self, body: &[u8]) -> Option<Steps> {
        steps(body)
    }

    fn branch(&self, at: u64, _decides: Decides) -> Spot {
        branch(at)
    }

    fn goidgen(&self, address: u64, body: &[u8]) -> Option<u64> {
        goidgen::goidgen(address, body)
    }
}

/// A branch that decides by the flags, which the kernel emulates.
fn branch(at: u64) -> Spot {
    Spot {
        at,
        place: Place::Success,
        emulated: true,
        decides_on: None,
    }
}

/// Where the body calls what begins at this distance from its first byte.
fn calls(body: &[u8], callee: u64) -> Vec<u64> {
    let calls = decoder(body).into_iter().filter(|instruction| {
        instruction.code() == Code::Call_rel32_64 && instruction.near_branch_target() == callee
    });
    calls.map(|instruction| instruction.ip()).collect()
}

fn decoder(body: &[u8]) -> Decoder<'_> {
    Decoder::with_ip(64, body, 0, DecoderOptions::NONE)
}

fn entry(body: &[u8]) -> Result<Spot, SiteError> {
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
            emulated: emulated(&instruction),
            decides_on: None,
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
fn emulated(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Nopd | Code::Nopw | Code::Nopq => instruction.len() == 1,
        Code::Nop_rm32 | Code::Nop_rm16 | Code::Nop_rm64 => instruction.len() == 5,
        Code::Push_r64 | Code::Call_rel32_64 | Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => true,
        _ => instruction.is_jcc_short_or_near(),
    }
}

fn returns(body: &[u8]) -> Result<Vec<Spot>, SiteError> {
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
                decides_on: None,
            });
        }
    }
    if spots.is_empty() {
        Err(SiteError::NoReturn)
    } else {
        Ok(spots)
    }
}

/// The function, as far as one can follow values in it without knowing the processor.
fn steps(body: &[u8]) -> Option<Steps> {
    let code = code::Code::decode(body)?;
    let mut factory = InstructionInfoFactory::new();
    let mut steps: Vec<Step> = Vec::with_capacity(code.instructions.len());
    let mut before: Option<&Instruction> = None;
    for instruction in &code.instructions {
        let info = factory.info(instruction);
        let mut step = Step {
            flow: flow(instruction),
            stores: info.used_memory().iter().filter_map(written_stack).collect(),
            copies: copied(instruction).into_iter().collect(),
            may_check_stack: matches!(instruction.mnemonic(), Mnemonic::Jbe | Mnemonic::Jb),
            stack: shift(instruction),
            ..Step::at(instruction.ip())
        };
        for used in info.used_registers() {
            let register = used.register().full_register();
            if writes(used.access()) && register.is_gpr64() {
                step.writes |= 1 << register.number();
            }
        }
        if instruction.mnemonic() == Mnemonic::Lea && is_slot(instruction) {
            step.takes_address = Some(instruction.memory_displacement64());
        }
        if let Mnemonic::Je | Mnemonic::Jne = instruction.mnemonic() {
            step.decides = before.and_then(tested).map(|on| Decides {
                on,
                taken_for_zero: instruction.mnemonic() == Mnemonic::Je,
            });
        }
        before = Some(instruction);
        steps.push(step);
    }
    let mut steps = Steps(steps);
    // Who comes to the branch by another way has tested something else.
    let jumped_to = steps.jumped_to();
    for step in &mut steps.0 {
        step.decides = step.decides.filter(|_| !jumped_to.contains(&step.at));
    }
    Some(steps)
}

fn flow(instruction: &Instruction) -> Flow {
    match instruction.flow_control() {
        FlowControl::Next => Flow::Next,
        FlowControl::Call => Flow::Call(Some(instruction.near_branch_target())),
        FlowControl::IndirectCall => Flow::Call(None),
        FlowControl::UnconditionalBranch => Flow::Jump(instruction.near_branch_target()),
        FlowControl::ConditionalBranch => Flow::Branch(instruction.near_branch_target()),
        FlowControl::Return => Flow::Return,
        // `ud2` and `int3` end a way.
        FlowControl::Exception | FlowControl::Interrupt => Flow::Ends,
        FlowControl::IndirectBranch | FlowControl::XbeginXabortXend => Flow::Anywhere,
    }
}

/// From where to where a plain move of eight bytes goes.
fn copied(instruction: &Instruction) -> Option<(steps::Place, steps::Place)> {
    let is_move = instruction.mnemonic() == Mnemonic::Mov;
    is_move.then_some(())?;
    Some((place(instruction, 1)?, place(instruction, 0)?))
}

/// The register or the place in the stack that an operand of eight bytes is.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum: all kinds of operands there are"
)]
fn place(instruction: &Instruction, operand: u32) -> Option<steps::Place> {
    match instruction.op_kind(operand) {
        OpKind::Register => {
            let register = instruction.op_register(operand);
            let number = u8::try_from(register.number()).ok()?;
            register.is_gpr64().then_some(steps::Place::Register(number))
        }
        OpKind::Memory if is_slot(instruction) && instruction.memory_size().size() == 8 => {
            Some(steps::Place::Slot(instruction.memory_displacement64()))
        }
        _ => None,
    }
}

/// What the flags say afterwards whether it is zero.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum: all instructions there are"
)]
fn tested(instruction: &Instruction) -> Option<steps::Place> {
    match instruction.mnemonic() {
        Mnemonic::Test if instruction.op0_register() == instruction.op1_register() => place(instruction, 0),
        Mnemonic::Cmp
            if instruction.op1_kind() == OpKind::Immediate8to64 && instruction.immediate8to64() == 0 =>
        {
            place(instruction, 0)
        }
        _ => None,
    }
}

/// What becomes of the stack pointer, as far as functions make their frames with it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum: all instructions there are"
)]
fn shift(instruction: &Instruction) -> Shift {
    let by = |operand| match instruction.op_kind(operand) {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(instruction.immediate(operand)),
        _ => None,
    };
    match instruction.mnemonic() {
        Mnemonic::Push => Shift::Lower(8),
        Mnemonic::Pop => Shift::Lower(0_u64.wrapping_sub(8)),
        Mnemonic::Sub if instruction.op0_register() == Register::RSP => {
            by(1).map_or(Shift::Elsewhere, Shift::Lower)
        }
        // 128 bytes are reserved by adding -128, which is shorter.
        Mnemonic::Add if instruction.op0_register() == Register::RSP => {
            by(1).map_or(Shift::Elsewhere, |bytes| Shift::Lower(0_u64.wrapping_sub(bytes)))
        }
        Mnemonic::Mov | Mnemonic::Lea | Mnemonic::And if instruction.op0_register() == Register::RSP => {
            Shift::Elsewhere
        }
        _ => Shift::Stays,
    }
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

#[cfg(test)]
mod tests {
    use super::{
        super::{SiteKind, find, goidgen},
        *,
    };
    use crate::discover::elf::Architecture;

    const RETURNS: SiteKind = SiteKind::Returns { but_success_of: "f" };

    fn entry(body: &[u8]) -> Spot {
        find(Architecture::Amd64, SiteKind::StackCheck, body, None).unwrap()[0]
    }

    /// A branch that the kernel emulates, when there is enough stack.
    fn stack_check(at: u64) -> Spot {
        Spot {
            at,
            place: Place::StackCheck,
            emulated: true,
            decides_on: None,
        }
    }

    #[test]
    fn the_branch_of_a_small_frame() {
        // cmp rsp, [r14+16]; jbe +2; ret
        let body = [0x49, 0x3b, 0x66, 0x10, 0x76, 0x02, 0xc3];
        assert_eq!(entry(&body), stack_check(4));
    }

    #[test]
    fn the_branch_of_a_large_frame() {
        // lea r12, [rsp-0x100]; cmp r12, [r14+16]; jbe +0x100
        let body = [
            0x4c, 0x8d, 0xa4, 0x24, 0x00, 0xff, 0xff, 0xff, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0x00, 0x01,
            0x00, 0x00,
        ];
        assert_eq!(entry(&body), stack_check(12));
    }

    #[test]
    fn the_branch_of_a_huge_frame_is_the_second_one() {
        // mov r12, rsp; sub r12, 0x20000; jb +0x40; cmp r12, [r14+16]; jbe +0x40
        let body = [
            0x49, 0x89, 0xe4, 0x49, 0x81, 0xec, 0x00, 0x00, 0x02, 0x00, 0x72, 0x40, 0x4d, 0x3b, 0x66, 0x10,
            0x76, 0x40,
        ];
        assert_eq!(entry(&body), stack_check(16));
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
                emulated: false,
                decides_on: None
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
                emulated: true,
                decides_on: None
            }
        );
        // endbr64; sub rsp, 8
        let body = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08];
        assert_eq!(
            entry(&body),
            Spot {
                at: 4,
                place: Place::Entry,
                emulated: false,
                decides_on: None
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
        let call =
            |callee| super::super::find(Architecture::Amd64, SiteKind::Call { callee: "f" }, &body, callee);
        let wanted = Spot {
            at: 6,
            place: Place::Call,
            emulated: true,
            decides_on: None,
        };
        assert_eq!(call(Some(0x10b)), Ok(vec![wanted]));
        assert_eq!(call(Some(0x10c)), Err(SiteError::NoCall));
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
