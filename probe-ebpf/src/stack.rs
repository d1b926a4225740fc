//! Keeps the programs at uprobes on the stack of the task that they run in.
//!
//! Since Linux 6.13 (arm64: 6.17) the kernel gives each program at a uprobe whose frame takes 64 bytes or more a stack of
//! its own, one per CPU, as if no program could begin twice on a CPU. Those at tracepoints and kprobes cannot, the kernel
//! sees to that; those at uprobes can, in a kernel that preempts tasks: another task comes by the same place, and the
//! program that goes on afterwards finds the other's values and addresses in its frame. We saw spans vanish, headers name
//! the wrong call, and once the kernel crash.
//!
//! A program in which there is a tail call gets no such stack; so each has one, which leads nowhere. It need not be
//! reached: the kernel looks for the instruction before it looks at anything else.

use aya_ebpf::{EbpfContext, macros::map, maps::ProgramArray};

/// No programs. The kernel wants all that can call into one such map to be of one kind, those at uprobes here.
#[map]
static NO_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Has to be compiled into each program at a uprobe itself, which a test looks after; does nothing.
#[inline(always)]
pub(crate) fn is_the_tasks<C: EbpfContext>(ctx: &C) {
    // SAFETY: nothing is there to be called.
    unsafe { NO_PROGRAMS.tail_call(ctx, 0) };
}
