//! Hooks in Go programs: one module per library, and what libraries share; the register ABI; the current goroutine.

pub(crate) mod call;
pub(crate) mod connection;
mod grpc;
pub(crate) mod header_fields;
mod http2;
pub(crate) mod map;
pub(crate) mod net_http;
pub(crate) mod request;

use aya_ebpf::{EbpfContext as _, bindings::pt_regs, programs::ProbeContext};
use probe_common::{
    field::{GoField, Offsets},
    key::GoroutineKey,
    target::TargetInfo,
};

use crate::{
    memory::{self, Window},
    target,
};

/// The registers of a Go function that has just been entered or is about to return, by ABIInternal.
#[derive(Clone, Copy)]
pub(crate) struct Registers(*const pt_regs);

#[cfg(bpf_target_arch = "x86_64")]
impl Registers {
    /// Carry and zero flag: `JBE` jumps if either is set.
    const BELOW_OR_EQUAL: u64 = 0x41;

    /// Whether the stack check is about to branch to `morestack`: the function will start over, and the hook hit
    /// again.
    #[inline(always)]
    pub(crate) fn will_restart(self) -> bool {
        // SAFETY: the kernel's registers, readable as a whole.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).eflags) & Self::BELOW_OR_EQUAL != 0 }
    }

    /// Word `N` of arguments or results, counted from 1.
    #[inline(always)]
    pub(crate) fn word<const N: usize>(self) -> u64 {
        // SAFETY: as above; each field is read alone, so that the compiler does not merge two reads.
        unsafe {
            match N {
                1 => core::ptr::read_volatile(&raw const (*self.0).rax),
                2 => core::ptr::read_volatile(&raw const (*self.0).rbx),
                3 => core::ptr::read_volatile(&raw const (*self.0).rcx),
                4 => core::ptr::read_volatile(&raw const (*self.0).rdi),
                5 => core::ptr::read_volatile(&raw const (*self.0).rsi),
                _ => core::ptr::read_volatile(&raw const (*self.0).r8),
            }
        }
    }

    /// The running goroutine's `runtime.g`.
    #[inline(always)]
    pub(crate) fn g(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).r14) }
    }

    /// Where a closure that has just been entered has what it captured, behind the address of its code.
    #[inline(always)]
    pub(crate) fn closure(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).rdx) }
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).rsp) }
    }

    /// Whether what the branch at hand was about to decide on is zero.
    #[inline(always)]
    pub(crate) fn found_zero(self) -> bool {
        const ZERO: u64 = 0x40;
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).eflags) & ZERO != 0 }
    }
}

#[cfg(bpf_target_arch = "aarch64")]
impl Registers {
    /// Carry set and zero clear mean "higher": `B.LS` jumps otherwise.
    #[inline(always)]
    pub(crate) fn will_restart(self) -> bool {
        const ZERO: u64 = 1 << 30;
        const CARRY: u64 = 1 << 29;
        // SAFETY: the kernel's registers, readable as a whole.
        let state = unsafe { core::ptr::read_volatile(&raw const (*self.0).pstate) };
        state & ZERO != 0 || state & CARRY == 0
    }

    /// Word `N` of arguments or results, counted from 1.
    #[inline(always)]
    pub(crate) fn word<const N: usize>(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile((&raw const (*self.0).regs).cast::<u64>().add(N - 1)) }
    }

    /// The running goroutine's `runtime.g`.
    #[inline(always)]
    pub(crate) fn g(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile((&raw const (*self.0).regs).cast::<u64>().add(28)) }
    }

    /// Where a closure that has just been entered has what it captured, behind the address of its code.
    #[inline(always)]
    pub(crate) fn closure(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile((&raw const (*self.0).regs).cast::<u64>().add(26)) }
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).sp) }
    }

    /// Whether what the branch at hand was about to decide on is zero. No site here has such a branch.
    #[inline(always)]
    pub(crate) fn found_zero(self) -> bool {
        false
    }
}

/// A hook has been hit in a target.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    pub(crate) registers: Registers,
    pub(crate) tgid: u32,
    pub(crate) target: &'static TargetInfo,
}

/// The hit at a function's beginning: nothing if it will begin anew, or the process is no target.
#[inline(always)]
pub(crate) fn entered(ctx: &ProbeContext) -> Option<Hit> {
    if registers(ctx).will_restart() {
        return None;
    }
    hit(ctx)
}

/// The hit anywhere else: nothing if the process is no target.
#[inline(always)]
pub(crate) fn hit(ctx: &ProbeContext) -> Option<Hit> {
    let tgid = target::tgid();
    Some(Hit {
        registers: registers(ctx),
        tgid,
        target: target::find(tgid)?,
    })
}

/// The registers at a hook.
#[inline(always)]
pub(crate) fn registers(ctx: &ProbeContext) -> Registers {
    Registers(ctx.as_ptr().cast())
}

/// The key of the goroutine whose `runtime.g` is at `g`, which `window` has afterwards.
#[inline(always)]
pub(crate) fn goroutine_in(
    tgid: u32,
    g: u64,
    offsets: &Offsets,
    window: &mut Window,
) -> Option<GoroutineKey> {
    let at = offsets.get(GoField::GGoid)?;
    let goid = window.fetch(g, at)?.word(at)?;
    Some(GoroutineKey { goid, tgid, _pad: 0 })
}

/// The key of the goroutine whose `runtime.g` is at `g`.
#[inline(always)]
pub(crate) fn goroutine(tgid: u32, g: u64, offsets: &Offsets) -> Option<GoroutineKey> {
    let goid = memory::read(g + offsets.get(GoField::GGoid)?)?;
    Some(GoroutineKey { goid, tgid, _pad: 0 })
}
