//! The kernel programs: one object, `probe`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// Some helpers are only for programs that say they are GPL-compatible; ours are (LICENSE-GPL2).
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could get here.
    loop {}
}

/// On the host the programs are only checked, and a binary has a `main`.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
