//! Which processes are traced, and what is in their executables.

pub mod process;
pub mod select;
