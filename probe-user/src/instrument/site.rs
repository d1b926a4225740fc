//! Where in a function a probe goes.
//!
//! A Go function begins with the check whether its stack suffices: a comparison with the goroutine's limit, and a
//! conditional branch to where the stack is grown. At that branch all arguments are still in their registers, and
//! it is an instruction that the kernel emulates instead of single-stepping it, which is ten times cheaper. When
//! the branch is taken the function begins anew afterwards, so a program that is attached there skips such a hit.

mod aarch64;
mod result;
mod steps;
mod x86_64;

use std::collections::BTreeSet;

use thiserror::Error;

use self::{
    aarch64::Aarch64,
    steps::{Decides, Steps},
    x86_64::X86_64,
};
use crate::discover::elf::Architecture;

/// The longest function that is taken apart: real ones that are hooked have a few thousand bytes.
pub const BODY_MAX: u64 = 256 * 1024;
/// Instructions within which the stack check ends: five with the largest frames.
const CHECK_INSTRUCTIONS: usize = 10;
/// Ids of goroutines taken at once, `_GoidCacheBatch`.
const GOID_BATCH: u64 = 16;

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
    /// The register that a branch looks at, by its number; `None`: the flags tell.
    pub decides_on: Option<u8>,
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

/// What has to be known of a processor's code.
trait Machine {
    /// The branch of the stack check, else the first instruction.
    fn entry(&self, body: &[u8]) -> Result<Spot, SiteError>;

    fn returns(&self, body: &[u8]) -> Result<Vec<Spot>, SiteError>;

    /// Where the body calls what begins at this distance from its first byte.
    fn calls(&self, body: &[u8], callee: u64) -> Vec<u64>;

    /// The branch on the error, the result from word `error` on, of the one call of what begins at this distance, while
    /// the results are in their registers.
    fn after_call(&self, body: &[u8], callee: u64, error: usize) -> Option<Spot>;

    /// A branch that says the same as returns behind it, and is cheaper.
    fn spared(&self, body: &[u8], decision: Decision) -> Option<Spared>;

    /// The function for [`result`].
    fn steps(&self, body: &[u8]) -> Option<Steps>;

    /// A branch of that.
    fn branch(&self, at: u64, decides: Decides) -> Spot;

    fn goidgen(&self, address: u64, body: &[u8]) -> Option<u64>;
}

fn machine(architecture: Architecture) -> &'static dyn Machine {
    match architecture {
        Architecture::Amd64 => &X86_64,
        Architecture::Arm64 => &Aarch64,
    }
}

/// What a function decides before it returns.
#[derive(Clone, Copy)]
enum Decision {
    /// Whether its call of what begins at this distance has succeeded.
    Call(u64),
    /// See [`SiteKind::Alternative`].
    Alternative,
    /// See [`SiteKind::NilReturned`].
    Nil,
}

/// A branch, and the returns that it spares.
struct Spared {
    branch: Spot,
    returns: BTreeSet<u64>,
}

/// Finds the instructions in the function's bytes, which may end in padding. `callee` is where the function that
/// `kind` names begins, as the distance from the first byte.
pub fn find(
    architecture: Architecture,
    kind: SiteKind,
    body: &[u8],
    callee: Option<u64>,
) -> Result<Vec<Spot>, SiteError> {
    let machine = machine(architecture);
    let calls = || callee.map(|callee| machine.calls(body, callee));
    let calls = || calls().filter(|calls| !calls.is_empty()).ok_or(SiteError::NoCall);
    let spared = |decision| machine.spared(body, decision);
    let of_call = || callee.map(Decision::Call).and_then(spared);
    let branch = |spared: Option<Spared>| Ok(spared.map(|spared| spared.branch).into_iter().collect());
    let returns_but = |spared: &[Option<Spared>]| {
        let mut spots = machine.returns(body)?;
        spots.retain(|spot| {
            let mut spared = spared.iter().flatten();
            !spared.any(|spared| spared.returns.contains(&spot.at))
        });
        Ok(spots)
    };
    match kind {
        SiteKind::StackCheck => Ok(vec![machine.entry(body)?]),
        SiteKind::Calling { .. } => {
            let entry = machine.entry(body)?;
            calls().map(|_| vec![entry])
        }
        SiteKind::Call { .. } => Ok(calls()?.into_iter().map(call).collect()),
        SiteKind::Success { .. } => branch(of_call()),
        SiteKind::Alternative => branch(spared(Decision::Alternative)),
        SiteKind::NilReturned => branch(spared(Decision::Nil)),
        SiteKind::AfterCall { error, .. } => {
            let spot = callee.and_then(|callee| machine.after_call(body, callee, error));
            Ok(vec![spot.ok_or(SiteError::NoBranch)?])
        }
        SiteKind::Result { .. } => callee
            .and_then(|callee| results(machine, body, callee))
            .ok_or(SiteError::NoBranch),
        SiteKind::Returns { .. } => returns_but(&[of_call(), spared(Decision::Alternative)]),
        SiteKind::ErrorReturns => returns_but(&[spared(Decision::Nil)]),
        SiteKind::EachReturn => machine.returns(body),
    }
}

/// A call, which every processor's kernel emulates.
fn call(at: u64) -> Spot {
    Spot {
        at,
        place: Place::Call,
        emulated: true,
        decides_on: None,
    }
}

fn results(machine: &dyn Machine, body: &[u8], callee: u64) -> Option<Vec<Spot>> {
    let code = machine.steps(body)?;
    result::receiver_at(&code)?;
    let branches = result::branches(&code, callee)?;
    let spot = |index| {
        let step = code.get(index)?;
        Some(machine.branch(step.at, step.decides?))
    };
    branches.into_iter().map(spot).collect()
}

/// Where the function of these bytes keeps its first argument, as bytes above the stack pointer, from its beginning to
/// its end. `None` unless the code proves it.
pub fn receiver_at(architecture: Architecture, body: &[u8]) -> Option<u64> {
    result::receiver_at(&machine(architecture).steps(body)?)
}

/// The address of `runtime.sched.goidgen`, from which `runtime.newproc1` takes ids of goroutines in batches: the
/// only counter that it raises by sixteen at once. `None` unless exactly one such place is there.
pub fn goidgen(architecture: Architecture, address: u64, body: &[u8]) -> Option<u64> {
    machine(architecture).goidgen(address, body)
}
