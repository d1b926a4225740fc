//! The registers of a Go function that is entered, left or about to decide, by ABIInternal: one module for each
//! processor, and each has every method. Nothing else in these programs knows what processor they are for.

#[cfg(bpf_target_arch = "aarch64")]
mod aarch64;
#[cfg(bpf_target_arch = "x86_64")]
mod x86_64;

use aya_ebpf::{EbpfContext as _, bindings::pt_regs, programs::ProbeContext};

/// What the kernel shows a program that is attached to an instruction.
#[derive(Clone, Copy)]
pub(crate) struct Registers(*const pt_regs);

// === impl Registers ===

impl Registers {
    /// Those at a hook.
    #[inline(always)]
    pub(super) fn at(ctx: &ProbeContext) -> Self {
        Self(ctx.as_ptr().cast())
    }
}
