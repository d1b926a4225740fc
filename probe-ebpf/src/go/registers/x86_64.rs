//! 64-bit x86: words in `RAX`, `RBX`, `RCX`, `RDI`, `RSI`, `R8` and three more, the goroutine in `R14`, what a closure has
//! captured behind `RDX`.

use core::ptr::read_volatile;

use aya_ebpf::programs::ProbeContext;

use super::Registers;

impl Registers {
    /// Carry and zero flag: `JBE` jumps if either is set.
    const BELOW_OR_EQUAL: u64 = 0x41;

    /// Whether the stack check is about to branch to `morestack`: the function will start over, and the hook hit
    /// again.
    #[inline(always)]
    pub(crate) fn will_restart(self) -> bool {
        // SAFETY: the kernel's registers, readable as a whole.
        unsafe { read_volatile(&raw const (*self.0).eflags) & Self::BELOW_OR_EQUAL != 0 }
    }

    /// Word `N` of arguments or results, counted from 1.
    #[inline(always)]
    pub(crate) fn word<const N: usize>(self) -> u64 {
        // SAFETY: as above; each field is read alone, so that the compiler does not merge two reads.
        unsafe {
            match N {
                1 => read_volatile(&raw const (*self.0).rax),
                2 => read_volatile(&raw const (*self.0).rbx),
                3 => read_volatile(&raw const (*self.0).rcx),
                4 => read_volatile(&raw const (*self.0).rdi),
                5 => read_volatile(&raw const (*self.0).rsi),
                _ => read_volatile(&raw const (*self.0).r8),
            }
        }
    }

    /// The running goroutine's `runtime.g`.
    #[inline(always)]
    pub(crate) fn g(self) -> u64 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.0).r14) }
    }

    /// Where a closure that has just been entered has what it captured, behind the address of its code.
    #[inline(always)]
    pub(crate) fn closure(self) -> u64 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.0).rdx) }
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(self) -> u64 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.0).rsp) }
    }

    /// Whether what the branch at hand was about to decide on is zero.
    #[inline(always)]
    pub(crate) fn found_zero(self, _ctx: &ProbeContext) -> bool {
        const ZERO: u64 = 0x40;
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.0).eflags) & ZERO != 0 }
    }
}
