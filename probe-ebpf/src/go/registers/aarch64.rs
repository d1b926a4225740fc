//! 64-bit ARM: words in `R0` to `R15`, the goroutine in `R28`, what a closure has captured behind `R26`.

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

    /// Whether what the branch at hand was about to decide on is zero. No site here has such a branch.
    #[inline(always)]
    pub(crate) fn found_zero(self) -> bool {
        false
    }

    /// `R0` to `R30`.
    #[inline(always)]
    fn register(self, number: usize) -> u64 {
        // SAFETY: as above, and there is such a register; read alone, so that the compiler does not merge two reads.
        unsafe { core::ptr::read_volatile((&raw const (*self.0).regs).cast::<u64>().add(number)) }
    }
}
