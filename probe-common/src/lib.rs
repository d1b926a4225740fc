//! The ABI: everything that crosses the border between kernel and user space.
//!
//! Rules, each kept by the compiler where it can be:
//!
//! 1. Records and map values are `#[repr(C)]`, of fixed size, 8-aligned, with explicit `_pad`, and use the
//!    narrowest unsigned integer that fits. What varies in length follows the fixed part as bytes.
//! 2. No `bool`, `char`, `usize`, `Option`, reference or enum with data stands in them.
//! 3. They derive zerocopy's traits: a forgotten pad or an unchecked enum does not compile.
//! 4. Each record starts with an [`event::EventHeader`].
//! 5. Each struct's size is asserted below it: the number in the diff makes a reviewer stop.
//! 6. Numbers of kinds and reasons are written out and never reused.
//! 7. Matches on our enums have no default arm.
//! 8. Strings are a length and bytes; a truncated one says so in the record's flags.
//! 9. Pure code that must give one answer on both sides (contexts, operation names) lives here too, in a form
//!    the verifier accepts, and is tested on the host.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod array;
pub mod base64;
pub mod context;
pub mod event;
pub mod field;
pub mod hash;
pub mod head;
pub mod hex;
pub mod key;
pub mod limits;
pub mod loss;
pub mod operation;
pub mod peer;
pub mod propagation;
pub mod sampling;
pub mod target;
