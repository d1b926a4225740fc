//! Which processes are traced, and what is in their executables.

pub mod container;
pub mod elf;
pub mod go;
pub mod layout;
pub mod module;
pub mod network;
pub mod pclntab;
pub mod pod;
pub mod process;
#[cfg(test)]
pub(crate) mod sample;
pub mod select;
pub mod types;
