//! A function's instructions, as far as one has to know them to follow a value: where they lead, what they move, what
//! they overwrite. The same for every processor; each has a decoder that makes them.

use std::collections::HashSet;

/// A function, in order.
#[derive(Debug, Default)]
pub(super) struct Steps(pub(super) Vec<Step>);

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) at: u64,
    pub(super) flow: Flow,
    /// The registers that it writes to, a bit for each number.
    pub(super) writes: u64,
    /// The bytes of the stack that it writes to: how far above the stack pointer, and how many.
    pub(super) stores: Vec<(u64, u64)>,
    /// Values of eight bytes that it copies: from, to.
    pub(super) copies: Vec<(Place, Place)>,
    /// What a conditional branch decides on, if on whether that is zero.
    pub(super) decides: Option<Decides>,
    /// It branches as the stack check does, on an unsigned comparison.
    pub(super) may_check_stack: bool,
    /// What it does to the stack pointer.
    pub(super) stack: Shift,
    /// It puts an address of the stack into a register: how far above the stack pointer.
    pub(super) takes_address: Option<u64>,
}

/// Where an instruction leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    /// A function whose address it names, or another one, and on.
    Call(Option<u64>),
    Jump(u64),
    /// There or on.
    Branch(u64),
    Return,
    /// Nowhere: a trap.
    Ends,
    /// Through a register it could go anywhere.
    Anywhere,
}

/// Where a value may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Register(u8),
    /// The stack's eight bytes at this distance from the stack pointer.
    Slot(u64),
}

/// A branch on whether a value is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decides {
    pub(super) on: Place,
    /// It is taken for zero.
    pub(super) taken_for_zero: bool,
}

/// What becomes of the stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    Stays,
    /// It is so many bytes lower.
    Lower(u64),
    Elsewhere,
}

// === impl Step ===

impl Step {
    /// One that does nothing.
    pub(super) fn at(at: u64) -> Self {
        Self {
            at,
            flow: Flow::Next,
            writes: 0,
            stores: Vec::new(),
            copies: Vec::new(),
            decides: None,
            may_check_stack: false,
            stack: Shift::Stays,
            takes_address: None,
        }
    }

    /// Whether it writes to any of the eight bytes there.
    pub(super) fn overwrites(&self, place: Place) -> bool {
        match place {
            Place::Register(number) => self.writes >> number & 1 == 1,
            Place::Slot(slot) => self
                .stores
                .iter()
                .any(|(at, bytes)| *at < slot.saturating_add(8) && slot < at.saturating_add(*bytes)),
        }
    }
}

// === impl Steps ===

impl Steps {
    pub(super) fn get(&self, index: usize) -> Option<&Step> {
        self.0.get(index)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn index(&self, at: u64) -> Option<usize> {
        self.0.binary_search_by_key(&at, |step| step.at).ok()
    }

    /// The one call of the function at `callee`.
    pub(super) fn only_call(&self, callee: u64) -> Option<usize> {
        let calls = |step: &Step| step.flow == Flow::Call(Some(callee));
        let mut calls = self.0.iter().enumerate().filter(|(_, step)| calls(step));
        let (index, _) = calls.next()?;
        calls.next().is_none().then_some(index)
    }

    /// Where jumps and branches lead.
    pub(super) fn jumped_to(&self) -> HashSet<u64> {
        let targets = self.0.iter().filter_map(|step| match step.flow {
            Flow::Jump(to) | Flow::Branch(to) => Some(to),
            Flow::Next | Flow::Call(_) | Flow::Return | Flow::Ends | Flow::Anywhere => None,
        });
        targets.collect()
    }

    /// The instructions that may run after the one at `index`, as far as they are in the function. `None` where the way
    /// cannot be told.
    pub(super) fn next(&self, index: usize) -> Option<Vec<usize>> {
        let (through, to) = match self.get(index)?.flow {
            Flow::Next | Flow::Call(_) => (true, None),
            Flow::Jump(to) => (false, Some(to)),
            Flow::Branch(to) => (true, Some(to)),
            Flow::Return | Flow::Ends => (false, None),
            Flow::Anywhere => return None,
        };
        let through = Some(index + 1).filter(|next| through && *next < self.len());
        let to = to.and_then(|to| self.index(to));
        Some(through.into_iter().chain(to).collect())
    }

    /// Where a branch on zero goes on with it.
    pub(super) fn zero_leads_to(&self, index: usize) -> Option<usize> {
        let step = self.get(index)?;
        match step.flow {
            Flow::Branch(to) if step.decides?.taken_for_zero => self.index(to),
            Flow::Branch(_) => Some(index + 1).filter(|next| *next < self.len()),
            Flow::Next | Flow::Call(_) | Flow::Jump(_) | Flow::Return | Flow::Ends | Flow::Anywhere => None,
        }
    }
}
