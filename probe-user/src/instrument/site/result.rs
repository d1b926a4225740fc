//! Where a Go function decides on the error that a call within it has returned, however far from the call.
//!
//! The error may have been put down and fetched again by then, and other branches may come first. So the places that
//! hold it are followed from the call on, along all ways. The function's receiver is not followed: it has a place in the
//! stack that the caller made for it, and keeps it.

use std::collections::{BTreeSet, VecDeque};

use super::steps::{Flow, Place, Shift, Step, Steps};

/// The register of the first word of arguments and of results, on every processor.
const FIRST: Place = Place::Register(0);

/// The branches, by their indices: each success passes exactly one of them, with nothing but zero in the place that it
/// decides on, and whoever passes one with something else has failed.
pub(super) fn branches(code: &Steps, callee: u64) -> Option<Vec<usize>> {
    let after = code.only_call(callee)? + 1;
    let held = follow(code, after)?;
    let mut branches: Vec<Branch> = (0..code.len())
        .filter_map(|index| branch(code, index, &held))
        .collect();
    // What success passes twice counts the second time.
    let all = branches.clone();
    let mut leads = |from: &Branch| {
        let mut ways = Ways::new(code);
        ways.walk(from.success, None)?;
        Some(all.iter().any(|other| ways.seen(other.index)))
    };
    let again: Vec<bool> = branches.iter().map(&mut leads).collect::<Option<_>>()?;
    let mut again = again.into_iter();
    branches.retain(|_| !again.next().unwrap_or_default());
    // And none goes by without passing.
    let mut ways = Ways::new(code);
    ways.walk(after, Some(&branches))?;
    let is_return = |index: &usize| code.get(*index).is_some_and(|step| step.flow == Flow::Return);
    let goes_by = (0..code.len()).filter(is_return).any(|index| ways.seen(index));
    (!goes_by && !branches.is_empty()).then(|| branches.iter().map(|branch| branch.index).collect())
}

/// A branch on whether there is an error.
#[derive(Clone, Copy)]
struct Branch {
    index: usize,
    /// Where it goes on without one.
    success: usize,
}

/// The places that hold the error's first word when an instruction begins.
type Held = BTreeSet<Place>;

/// Follows the error from where the call has returned it.
fn follow(code: &Steps, after: usize) -> Option<Vec<Option<Held>>> {
    let mut held: Vec<Option<Held>> = vec![None; code.len()];
    *held.get_mut(after)? = Some(Held::from([FIRST]));
    let mut open = VecDeque::from([after]);
    while let Some(index) = open.pop_front() {
        let mut state = held.get(index)?.clone()?;
        run(&mut state, code.get(index)?);
        for next in code.next(index)? {
            let known = held.get_mut(next)?;
            let joined = match known.as_ref() {
                None => state.clone(),
                Some(known) => known & &state,
            };
            if known.as_ref() != Some(&joined) {
                *known = Some(joined);
                open.push_back(next);
            }
        }
    }
    Some(held)
}

/// What an instruction leaves of it, and adds to it by copying.
fn run(held: &mut Held, step: &Step) {
    let is_register = |place: &Place| matches!(place, Place::Register(_));
    if matches!(step.flow, Flow::Call(_)) {
        // No register outlives a call in Go.
        held.retain(|place| !is_register(place));
        return;
    }
    let copies: Vec<Place> = step
        .copies
        .iter()
        .filter(|(from, _)| held.contains(from))
        .map(|(_, to)| *to)
        .collect();
    held.retain(|place| !step.overwrites(*place));
    held.extend(copies);
    if step.stack != Shift::Stays {
        held.retain(is_register);
    }
}

/// The branch at `index`, if it is one on the error.
fn branch(code: &Steps, index: usize, held: &[Option<Held>]) -> Option<Branch> {
    let decides = code.get(index)?.decides?;
    held.get(index)?.as_ref()?.contains(&decides.on).then_some(())?;
    let success = code.zero_leads_to(index)?;
    Some(Branch { index, success })
}

/// Where one can get.
struct Ways<'a> {
    code: &'a Steps,
    seen: Vec<bool>,
}

impl<'a> Ways<'a> {
    fn new(code: &'a Steps) -> Self {
        Self {
            code,
            seen: vec![false; code.len()],
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
pub(super) fn receiver_at(code: &Steps) -> Option<u64> {
    let mut frame_bytes = 0_u64;
    let mut kept = None;
    let mut steps = code.0.iter();
    for step in steps.by_ref() {
        let put_down = step.copies.iter().find_map(|(from, to)| match to {
            Place::Slot(at) if *from == FIRST => Some(*at),
            Place::Slot(_) | Place::Register(_) => None,
        });
        if put_down.is_some() {
            kept = put_down;
            break;
        }
        match step.stack {
            Shift::Stays => {}
            Shift::Lower(bytes) => frame_bytes = frame_bytes.wrapping_add(bytes),
            Shift::Elsewhere => return None,
        }
        let goes_on = step.flow == Flow::Next || step.may_check_stack;
        if !goes_on || step.overwrites(FIRST) {
            return None;
        }
    }
    // Behind the frame, and a word for the return address or, where that is in a register, for what its function calls.
    let at = kept.filter(|at| *at >= frame_bytes.saturating_add(8))?;
    let disturbs = |step: &Step| {
        step.overwrites(Place::Slot(at)) || step.takes_address.is_some_and(|address| address >= frame_bytes)
    };
    (!steps.any(disturbs)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::super::{Machine as _, aarch64::Aarch64, x86_64::X86_64};

    fn branches(body: &[u8], callee: u64) -> Option<Vec<u64>> {
        let code = X86_64.steps(body)?;
        let branches = super::branches(&code, callee)?;
        Some(branches.into_iter().map(|index| code.0[index].at).collect())
    }

    fn receiver_at(body: &[u8]) -> Option<u64> {
        super::receiver_at(&X86_64.steps(body)?)
    }

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

    /// `str x30, [sp, #-32]!; str x0, [sp, #40]; bl f; str x0, [sp, #8]; bl g; ldr x3, [sp, #8]; cbnz x3, +8;
    /// mov x0, xzr; ldr x30, [sp], #32; ret`.
    const OF_ARM: [u32; 10] = [
        0xf81e_0ffe,
        0xf900_17e0,
        0x9400_003e,
        0xf900_07e0,
        0x9400_003e,
        0xf940_07e3,
        0xb500_0043,
        0xaa1f_03e0,
        0xf842_07fe,
        0xd65f_03c0,
    ];
    const CALLEE_OF_ARM: u64 = 0x100;

    fn arm(words: &[u32]) -> (Option<Vec<u64>>, Option<u64>) {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let code = Aarch64.steps(&body).unwrap();
        let branches = super::branches(&code, CALLEE_OF_ARM);
        let at = branches.map(|branches| branches.into_iter().map(|index| code.0[index].at).collect());
        (at, super::receiver_at(&code))
    }

    /// The function with another instruction in the place of one.
    fn arm_with(at: usize, word: u32) -> (Option<Vec<u64>>, Option<u64>) {
        let mut words = OF_ARM;
        words[at] = word;
        arm(&words)
    }

    #[test]
    fn another_processor_has_the_same_ways() {
        assert_eq!(arm(&OF_ARM), (Some(vec![24]), Some(40)));
        // stp x1, x0, [sp, #8]; ldp x4, x3, [sp, #8]: the second of a pair.
        let mut pairs = OF_ARM;
        (pairs[3], pairs[5]) = (0xa900_83e1, 0xa940_8fe4);
        assert_eq!(arm(&pairs).0, Some(vec![24]));
        // cbz x3: what it goes on with changes, not where it is.
        assert_eq!(arm_with(6, 0xb400_0043).0, Some(vec![24]));
        // mov x3, x4; cbnz w3: half of it; cbnz x4.
        assert_eq!(arm_with(5, 0xaa04_03e3).0, None);
        assert_eq!(arm_with(6, 0x3500_0043).0, None);
        assert_eq!(arm_with(6, 0xb500_0044).0, None);
        // The slot is overwritten: by str x1, [sp, #8]; by str q0, [sp]; by st1 with any address.
        for store in [0xf900_07e1, 0x3d80_03e0, 0x0c00_73e0] {
            let mut words = OF_ARM.to_vec();
            words.insert(5, store);
            assert_eq!(arm(&words).0, None, "{store:#x}");
        }
    }

    #[test]
    fn another_processor_keeps_its_receiver_in_the_same_place() {
        // sub x20, sp, #32; stp x29, x30, [x20, #-8]; mov sp, x20
        let large = [&[0xd100_83f4, 0xa93f_fa9d, 0x9100_029f][..], &OF_ARM[1..]].concat();
        assert_eq!(arm(&large).1, Some(40));
        // Put down in the function's own frame; overwritten later; its address is taken.
        assert_eq!(arm_with(1, 0xf900_0be0).1, None);
        assert_eq!(arm_with(5, 0xf900_17e1).1, None);
        assert_eq!(arm_with(5, 0x9100_a3e3).1, None);
        // mov x0, x1 before: it is gone.
        let mut words = OF_ARM.to_vec();
        words.insert(1, 0xaa01_03e0);
        assert_eq!(arm(&words).1, None);
    }
}
