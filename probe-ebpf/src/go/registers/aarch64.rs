//! 64-bit ARM: words in `R0` to `R15`, the goroutine in `R28`, what a closure has captured behind `R26`.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_attach_cookie, bpf_probe_read_kernel},
    programs::ProbeContext,
};

use super::Registers;

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
        const { assert!(1 <= N && N <= 16, "the others are in the stack") };
        self.register(N - 1)
    }

    /// The running goroutine's `runtime.g`.
    #[inline(always)]
    pub(crate) fn g(self) -> u64 {
        self.register(28)
    }

    /// Where a closure that has just been entered has what it captured, behind the address of its code.
    #[inline(always)]
    pub(crate) fn closure(self) -> u64 {
        self.register(26)
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(self) -> u64 {
        // SAFETY: the kernel's registers, readable as a whole.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).sp) }
    }

    /// Whether what the branch at hand was about to decide on is zero: a register that the branch names itself, and so
    /// does what the loader has attached this to it with.
    #[inline(always)]
    pub(crate) fn found_zero(self, ctx: &ProbeContext) -> bool {
        // SAFETY: asks the kernel for what this was attached with.
        let number = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } & 31;
        let mut value = 1_u64;
        // A helper has to read it: no verifier lets a program read its context at a place that is reckoned.
        // SAFETY: of 31 registers and three words more, the one with this number is within; a failure leaves no zero.
        let failed = unsafe {
            bpf_probe_read_kernel(
                (&raw mut value).cast(),
                size_of::<u64>() as u32,
                (&raw const (*self.0).regs)
                    .cast::<u64>()
                    .add(number as usize)
                    .cast(),
            )
        };
        failed == 0 && value == 0
    }

    /// `R0` to `R30`.
    #[inline(always)]
    fn register(self, number: usize) -> u64 {
        // SAFETY: as above, and there is such a register; read alone, so that the compiler does not merge two reads.
        unsafe { core::ptr::read_volatile((&raw const (*self.0).regs).cast::<u64>().add(number)) }
    }
}
